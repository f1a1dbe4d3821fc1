//! A command in a sandbox, by its command router: started once, its streams resumed where they broke.

use super::api::{Answer, Api, MESSAGE, Repeat, channel, secret, uuid};
use super::proto::client::TaskGetCommandRouterAccessRequest;
use super::proto::router::task_command_router_client::TaskCommandRouterClient;
use super::proto::router::{
    TaskExecStartRequest, TaskExecStderrConfig, TaskExecStdinStatusRequest, TaskExecStdinWriteStreamEnd,
    TaskExecStdinWriteStreamRequest, TaskExecStdinWriteStreamStart, TaskExecStdioFileDescriptor,
    TaskExecStdioReadRequest, TaskExecStdoutConfig, TaskExecWaitRequest, task_exec_stdin_write_stream_request::Payload,
    task_exec_wait_response::ExitStatus,
};
use super::refusal::{explain, passing};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Words of one command together, bytes.
const LONGEST: usize = 65_536;
const PIECE: usize = 256 << 10;
/// Attempts of a quick call, or of a stream that brings nothing in between.
const ATTEMPTS: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(10);
const QUICK: Duration = Duration::from_secs(60);
/// One stream of output; it is opened again where it ended.
const STREAM: Duration = Duration::from_secs(3_600);

/// What a command reads: bytes so far, and whether they are all.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    pub(super) ended: bool,
}

/// The commands of one task.
#[derive(Debug)]
pub(super) struct Task {
    api: Arc<Api>,
    id: String,
    channel: Channel,
    bearer: Mutex<MetadataValue<Ascii>>,
}

type Router = TaskCommandRouterClient<Channel>;

impl Task {
    /// The commands of a task that runs.
    pub(super) async fn open(api: Arc<Api>, id: String) -> Result<Self> {
        let (url, bearer) = access(&api, &id).await.map_err(|status| explain(ACCESS, &status))?;
        Ok(Self { api, id, channel: channel(&url)?, bearer: Mutex::new(bearer) })
    }

    /// Starts a command; once, however often the call is sent.
    pub(super) async fn start(&self, argv: &[String], home: &str) -> Result<String> {
        let size: usize = argv.iter().map(String::len).sum();
        if size > LONGEST {
            let remedy = "pass what is long by standard input";
            return Err(Error::usage("a command", format!("has {size} bytes; Modal takes {LONGEST}"), remedy));
        }
        let exec = uuid();
        let message = TaskExecStartRequest {
            task_id: self.id.clone(),
            exec_id: exec.clone(),
            command_args: argv.to_vec(),
            stdout_config: TaskExecStdoutConfig::Pipe.into(),
            stderr_config: TaskExecStderrConfig::Pipe.into(),
            workdir: Some(home.to_owned()),
            env: HashMap::from([("HOME".to_owned(), home.to_owned())]),
        };
        self.call("TaskExecStart", message, async |mut router, request| router.task_exec_start(request).await).await?;
        Ok(exec)
    }

    /// Waits for a command's end: its exit status, or 128 and the signal.
    pub(super) async fn wait(&self, exec: &str) -> Result<i32> {
        let mut failures = 0;
        loop {
            let message = TaskExecWaitRequest { task_id: self.id.clone(), exec_id: exec.to_owned() };
            let send = async |mut router: Router, request| router.task_exec_wait(request).await;
            let bearer = self.bearer.lock().await.clone();
            match self.once(message, QUICK, &bearer, send).await.map(|answer| answer.exit_status) {
                Ok(Some(ExitStatus::Code(code))) => return Ok(code),
                Ok(Some(ExitStatus::Signal(signal))) => return Ok(128 + signal),
                // A command may run for long; that it is silent for too long is another's concern.
                Ok(None) => {}
                Err(status) if passing(&status) => tracing::debug!("TaskExecWait: {:?}", status.code()),
                Err(status) => self.pause("TaskExecWait", &mut failures, &status, &bearer).await?,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads one of a command's outputs to its end.
    pub(super) async fn read(
        &self,
        exec: &str,
        from: TaskExecStdioFileDescriptor,
        mut take: impl FnMut(&[u8]),
    ) -> Result<()> {
        let (mut offset, mut failures) = (0_u64, 0);
        loop {
            let message = TaskExecStdioReadRequest {
                task_id: self.id.clone(),
                exec_id: exec.to_owned(),
                offset,
                file_descriptor: from.into(),
            };
            let opened = async |mut router: Router, request| router.task_exec_stdio_read(request).await;
            let bearer = self.bearer.lock().await.clone();
            let broke = match self.once(message, STREAM, &bearer, opened).await {
                Err(status) => status,
                Ok(mut stream) => loop {
                    match stream.message().await {
                        Ok(Some(piece)) => {
                            failures = 0;
                            offset += piece.data.len() as u64;
                            take(&piece.data);
                        }
                        Ok(None) => return Ok(()),
                        Err(status) => break status,
                    }
                },
            };
            self.pause("TaskExecStdioRead", &mut failures, &broke, &bearer).await?;
        }
    }

    /// Writes a command's input as it comes; after a break from where the server has it. A command that ends earlier
    /// closes its input: its status says why.
    pub(super) async fn write(
        &self,
        exec: &str,
        input: &watch::Receiver<Input>,
        took: impl Fn() + Clone + Send + 'static,
    ) -> Result<()> {
        let (mut offset, mut failures) = (0_usize, 0);
        loop {
            let begin = TaskExecStdinWriteStreamStart {
                task_id: self.id.clone(),
                exec_id: exec.to_owned(),
                offset: offset as u64,
            };
            let pieces = pieces(begin, input.clone(), offset, took.clone());
            let mut request = Request::new(pieces);
            let bearer = self.bearer.lock().await.clone();
            request.metadata_mut().insert("authorization", bearer.clone());
            let broke = match self.router().task_exec_stdin_write_stream(request).await {
                Ok(_) => return Ok(()),
                Err(status) if passing(&status) || status.code() == Code::Unauthenticated => status,
                Err(_) => return Ok(()),
            };
            self.pause("TaskExecStdinWriteStream", &mut failures, &broke, &bearer).await?;
            let message = TaskExecStdinStatusRequest { task_id: self.id.clone(), exec_id: exec.to_owned() };
            let asked = self
                .call("TaskExecStdinStatus", message, async |mut router, request| {
                    router.task_exec_stdin_status(request).await
                })
                .await;
            let Ok(state) = asked else { return Ok(()) };
            if state.closed {
                return Ok(());
            }
            let there = usize::try_from(state.num_bytes_written).unwrap_or(usize::MAX);
            if there > offset {
                failures = 0;
            }
            offset = there.min(input.borrow().bytes.len());
        }
    }

    fn router(&self) -> Router {
        Router::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }

    /// A quick call that has the same effect once or twice.
    async fn call<Q: Clone, A, F: Future<Output = Answer<A>>>(
        &self,
        name: &'static str,
        message: Q,
        send: impl Fn(Router, Request<Q>) -> F,
    ) -> Result<A> {
        let mut failures = 0;
        loop {
            let bearer = self.bearer.lock().await.clone();
            match self.once(message.clone(), QUICK, &bearer, &send).await {
                Ok(answer) => return Ok(answer),
                Err(status) => self.pause(name, &mut failures, &status, &bearer).await?,
            }
        }
    }

    async fn once<Q, A, F: Future<Output = Answer<A>>>(
        &self,
        message: Q,
        limit: Duration,
        bearer: &MetadataValue<Ascii>,
        send: impl Fn(Router, Request<Q>) -> F,
    ) -> std::result::Result<A, Status> {
        let mut request = Request::new(message);
        request.set_timeout(limit);
        request.metadata_mut().insert("authorization", bearer.clone());
        send(self.router(), request).await.map(tonic::Response::into_inner)
    }

    /// Waits before another attempt; an access that has ended is asked for anew, once for all that used it.
    async fn pause(&self, name: &str, failures: &mut u32, status: &Status, used: &MetadataValue<Ascii>) -> Result<()> {
        *failures += 1;
        let stale = status.code() == Code::Unauthenticated;
        let throttled = super::refusal::wait(status).filter(|_| status.code() == Code::ResourceExhausted);
        if *failures > ATTEMPTS || !(stale || passing(status) || throttled.is_some()) {
            return Err(explain(name, status));
        }
        if stale {
            let mut bearer = self.bearer.lock().await;
            if *bearer == *used {
                *bearer = access(&self.api, &self.id).await.map_err(|status| explain(ACCESS, &status))?.1;
            }
            return Ok(());
        }
        let wait = FIRST_WAIT * 2_u32.pow(*failures - 1);
        tokio::time::sleep(throttled.unwrap_or(wait).min(Duration::from_secs(30))).await;
        Ok(())
    }
}

const ACCESS: &str = "TaskGetCommandRouterAccess";

async fn access(api: &Api, task: &str) -> std::result::Result<(String, MetadataValue<Ascii>), Status> {
    let message = TaskGetCommandRouterAccessRequest { task_id: task.to_owned() };
    let send = async |mut client: super::api::Client, request| client.task_get_command_router_access(request).await;
    let access = api.attempts(ACCESS, message, Repeat::Safe, QUICK, send).await?;
    let bearer = secret(&format!("Bearer {}", access.jwt), "Modal's access to the task");
    Ok((access.url, bearer.map_err(|why| Status::internal(why.to_string()))?))
}

/// The messages of one attempt to write input, from `offset` on, each made when the connection takes it.
fn pieces(
    begin: TaskExecStdinWriteStreamStart,
    input: watch::Receiver<Input>,
    offset: usize,
    took: impl Fn() + Send + 'static,
) -> impl futures_util::Stream<Item = TaskExecStdinWriteStreamRequest> + Send + 'static {
    let message = |payload| TaskExecStdinWriteStreamRequest { payload: Some(payload) };
    let state = (Some(begin), input, offset, took, false);
    futures_util::stream::unfold(state, move |(begin, mut input, offset, took, ended)| async move {
        if ended {
            return None;
        }
        if let Some(begin) = begin {
            return Some((message(Payload::Start(begin)), (None, input, offset, took, false)));
        }
        loop {
            // New bytes while these are looked at are seen by `changed`.
            let (piece, all) = {
                let now = input.borrow_and_update();
                let end = now.bytes.len().min(offset + PIECE);
                (now.bytes.get(offset..end).unwrap_or_default().to_vec(), now.ended)
            };
            if !piece.is_empty() {
                took();
                let next = offset + piece.len();
                return Some((message(Payload::Data(piece)), (None, input, next, took, false)));
            }
            if all || input.changed().await.is_err() {
                let end = message(Payload::End(TaskExecStdinWriteStreamEnd {}));
                return Some((end, (None, input, offset, took, true)));
            }
        }
    })
}
