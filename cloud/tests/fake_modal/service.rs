//! The calls of the account.

use super::made::modal_client_server::ModalClient;
use super::world::{Fault, World};
use super::{Accounts, SECRET};
use gorgo_cloud::modal::proto::client::*;
use std::sync::{Arc, Mutex};
use tonic::{Request, Response, Status};

type Answer<A> = Result<Response<A>, Status>;

pub(super) struct Service {
    pub(super) accounts: Accounts,
    pub(super) url: String,
}

impl Service {
    fn world<Q>(&self, request: &Request<Q>) -> Result<Arc<Mutex<World>>, Status> {
        let value = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let world = self.accounts.lock().unwrap().get(value("x-modal-token-id")).cloned();
        let world = world.filter(|_| value("x-modal-token-secret") == SECRET);
        let world = world.ok_or_else(|| Status::unauthenticated("no such token"))?;
        if value("x-modal-client-type") != "1" || value("x-modal-client-version").is_empty() {
            world.lock().unwrap().violations.push("a call without type and version of its client".to_owned());
        }
        Ok(world)
    }

    /// One call: credentials, fault, effect, answer.
    fn answer<Q, A>(
        &self,
        call: &str,
        request: Request<Q>,
        act: impl FnOnce(&mut World, Q) -> Result<A, Status>,
    ) -> Answer<A> {
        let world = self.world(&request)?;
        let mut world = world.lock().unwrap();
        let value = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (token, key) = (value("x-modal-auth-token"), value("x-idempotency-key"));
        if call.ends_with("V2") {
            let now_ms = world.time.now_ms();
            let known = token.and_then(|token| world.tokens.get(&token).copied());
            if known.is_none() {
                world.violations.push(format!("{call} without a token"));
            }
            if known.is_none_or(|end_ms| end_ms <= now_ms) {
                return Err(Status::unauthenticated("no auth token"));
            }
        }
        if key.is_none() && call != "AuthTokenGet" {
            world.violations.push(format!("{call} without an idempotency key"));
        }
        let fault = world.draw(call);
        if let Fault::Refused(why) = &fault {
            return Err(why.status());
        }
        let before = world.machines.len();
        let done = act(&mut world, request.into_inner());
        if let Fault::Lost(code) = fault {
            world.unanswered += world.machines.len() - before;
            return Err(Status::new(code, "the answer is lost"));
        }
        done.map(Response::new)
    }
}

#[tonic::async_trait]
impl ModalClient for Service {
    async fn app_get_or_create(&self, request: Request<AppGetOrCreateRequest>) -> Answer<AppGetOrCreateResponse> {
        self.answer("AppGetOrCreate", request, |world, message| {
            world.app |= message.object_creation_type() == ObjectCreationType::CreateIfMissing;
            match world.app {
                true => Ok(AppGetOrCreateResponse { app_id: "ap-1".to_owned() }),
                false => Err(Status::not_found("no such app")),
            }
        })
    }

    async fn auth_token_get(&self, request: Request<AuthTokenGetRequest>) -> Answer<AuthTokenGetResponse> {
        self.answer("AuthTokenGet", request, |world, _| Ok(AuthTokenGetResponse { token: world.token() }))
    }

    async fn environment_get_or_create(
        &self,
        request: Request<EnvironmentGetOrCreateRequest>,
    ) -> Answer<EnvironmentGetOrCreateResponse> {
        self.answer("EnvironmentGetOrCreate", request, |_, _| {
            let settings = EnvironmentSettings { image_builder_version: "2025.06".to_owned() };
            let metadata = EnvironmentMetadata { name: "main".to_owned(), settings: Some(settings) };
            Ok(EnvironmentGetOrCreateResponse { metadata: Some(metadata) })
        })
    }

    async fn image_get_or_create(&self, request: Request<ImageGetOrCreateRequest>) -> Answer<ImageGetOrCreateResponse> {
        self.answer("ImageGetOrCreate", request, |world, message| {
            let image = message.image.unwrap_or_default();
            let below = image.base_images.first().map(|base| base.image_id.clone());
            let first = image.dockerfile_commands.first().cloned().unwrap_or_default();
            let fits = match &below {
                None => first.starts_with("FROM ") && first != "FROM base",
                Some(id) => first == "FROM base" && world.images.contains_key(id),
            };
            if !fits || message.builder_version != "2025.06" {
                world.violations.push(format!("an image that cannot be built: {first}"));
                return Err(Status::invalid_argument("no image"));
            }
            let mut lines = below.map(|id| world.images[&id].clone()).unwrap_or_default();
            lines.extend(image.dockerfile_commands);
            let known = world.images.iter().find(|(_, of)| **of == lines).map(|(id, _)| id.clone());
            let done = GenericResult { status: generic_result::GenericStatus::Success.into(), ..Default::default() };
            let result = known.is_some().then_some(done);
            let image_id = known.unwrap_or_else(|| format!("im-{}", world.images.len()));
            world.images.insert(image_id.clone(), lines);
            Ok(ImageGetOrCreateResponse { image_id, result })
        })
    }

    type ImageJoinStreamingStream =
        futures_util::stream::Iter<std::vec::IntoIter<Result<ImageJoinStreamingResponse, Status>>>;

    async fn image_join_streaming(
        &self,
        request: Request<ImageJoinStreamingRequest>,
    ) -> Answer<Self::ImageJoinStreamingStream> {
        let world = self.world(&request)?;
        let mut world = world.lock().unwrap();
        let message = request.into_inner();
        let failed =
            world.images.get(&message.image_id).is_some_and(|lines| lines.iter().any(|line| line.contains("broken")));
        let from: u64 = message.last_entry_id.parse().unwrap_or(0);
        let entry = |n: u64| ImageJoinStreamingResponse {
            entry_id: n.to_string(),
            task_logs: vec![TaskLogs { data: format!("step {n}\n") }],
            ..Default::default()
        };
        let mut entries: Vec<Result<ImageJoinStreamingResponse, Status>> = Vec::new();
        for n in from + 1..=3 {
            if world.chance(0.2) {
                world.streams_broken += 1;
                entries.push(Err(Status::unavailable("the stream broke")));
                return Ok(Response::new(futures_util::stream::iter(entries)));
            }
            entries.push(Ok(entry(n)));
        }
        use generic_result::GenericStatus::{Failure, Success};
        let exception = if failed { "RUN failed".to_owned() } else { String::new() };
        let result = GenericResult { status: if failed { Failure } else { Success }.into(), exception, exitcode: 0 };
        entries.push(Ok(ImageJoinStreamingResponse { result: Some(result), eof: true, ..Default::default() }));
        Ok(Response::new(futures_util::stream::iter(entries)))
    }

    async fn sandbox_create(&self, request: Request<SandboxCreateRequest>) -> Answer<SandboxCreateResponse> {
        let key = request.metadata().get("x-idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
        let key = key.to_owned();
        self.answer("SandboxCreate", request, |world, message| {
            if let Some(sandbox_id) = world.created.get(&key).cloned() {
                return Ok(SandboxCreateResponse { sandbox_id });
            }
            let sandbox_id = world.create(message)?;
            world.created.insert(key, sandbox_id.clone());
            Ok(SandboxCreateResponse { sandbox_id })
        })
    }

    async fn sandbox_get_from_name(
        &self,
        request: Request<SandboxGetFromNameRequest>,
    ) -> Answer<SandboxGetFromNameResponse> {
        self.answer("SandboxGetFromName", request, |world, message| {
            let sandbox_id = world.by_name(&message.sandbox_name, message.include_terminated)?;
            Ok(SandboxGetFromNameResponse { sandbox_id })
        })
    }

    async fn sandbox_get_task_id(&self, request: Request<SandboxGetTaskIdRequest>) -> Answer<SandboxGetTaskIdResponse> {
        self.answer("SandboxGetTaskId", request, |world, message| {
            let task_result = world.result(&message.sandbox_id)?;
            let task_id = world.task(&message.sandbox_id)?.filter(|_| task_result.is_none());
            Ok(SandboxGetTaskIdResponse { task_id, task_result })
        })
    }

    async fn sandbox_get_tunnels(
        &self,
        request: Request<SandboxGetTunnelsRequest>,
    ) -> Answer<SandboxGetTunnelsResponse> {
        self.answer("SandboxGetTunnels", request, |world, message| {
            let tunnels = world.tunnels(&message.sandbox_id)?;
            use generic_result::GenericStatus::{Success, Timeout};
            let status = if tunnels.is_empty() { Timeout } else { Success };
            let result = GenericResult { status: status.into(), ..Default::default() };
            Ok(SandboxGetTunnelsResponse { result: Some(result), tunnels })
        })
    }

    async fn sandbox_list_v2(&self, request: Request<SandboxListRequest>) -> Answer<SandboxListResponse> {
        self.answer("SandboxListV2", request, |world, message| {
            if message.app_id.is_empty() {
                world.violations.push("a list without an app".to_owned());
            }
            Ok(SandboxListResponse { sandboxes: world.list(&message) })
        })
    }

    async fn sandbox_terminate(&self, request: Request<SandboxTerminateRequest>) -> Answer<SandboxTerminateResponse> {
        self.answer("SandboxTerminate", request, |world, message| {
            Ok(SandboxTerminateResponse { existing_result: world.terminate(&message.sandbox_id)? })
        })
    }

    async fn sandbox_wait(&self, request: Request<SandboxWaitRequest>) -> Answer<SandboxWaitResponse> {
        self.answer("SandboxWait", request, |world, message| {
            Ok(SandboxWaitResponse { result: world.result(&message.sandbox_id)? })
        })
    }

    async fn task_get_command_router_access(
        &self,
        request: Request<TaskGetCommandRouterAccessRequest>,
    ) -> Answer<TaskGetCommandRouterAccessResponse> {
        let url = self.url.clone();
        self.answer("TaskGetCommandRouterAccess", request, |world, message| {
            let id = message.task_id.rsplit('/').next().unwrap_or_default();
            let jwt = world.get(id)?.commands.access();
            Ok(TaskGetCommandRouterAccessResponse { jwt, url })
        })
    }

    async fn volume_get_or_create(
        &self,
        request: Request<VolumeGetOrCreateRequest>,
    ) -> Answer<VolumeGetOrCreateResponse> {
        self.answer("VolumeGetOrCreate", request, |_, message| {
            Ok(VolumeGetOrCreateResponse { volume_id: format!("vo-{}", message.deployment_name) })
        })
    }

    async fn workspace_billing_rates(
        &self,
        request: Request<WorkspaceBillingRatesRequest>,
    ) -> Answer<WorkspaceBillingRatesResponse> {
        self.answer("WorkspaceBillingRates", request, |_, _| {
            let rates = [("GPU_A100", "2.10"), ("GPU_H100", "3.95"), ("CPU", "0.20")];
            let rates = rates.map(|(name, rate)| (name.to_owned(), rate.to_owned())).into();
            Ok(WorkspaceBillingRatesResponse { rates, formatted: "A100 $2.10/h".to_owned() })
        })
    }
}
