//! The command router of the tasks: streams break at any byte, accesses end early.

use super::Accounts;
use super::commands::{Commands, Exec};
use super::made::task_command_router_server::TaskCommandRouter;
use super::world::World;
use gorgo_cloud::modal::proto::router::{
    TaskExecStartRequest, TaskExecStartResponse, TaskExecStdinStatusRequest, TaskExecStdinStatusResponse,
    TaskExecStdinWriteStreamRequest, TaskExecStdinWriteStreamResponse, TaskExecStdioReadRequest,
    TaskExecStdioReadResponse, TaskExecWaitRequest, TaskExecWaitResponse,
    task_exec_stdin_write_stream_request::Payload, task_exec_wait_response::ExitStatus,
};
use rand::RngExt;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

type Answer<A> = Result<Response<A>, Status>;

pub(super) struct Router {
    pub(super) accounts: Accounts,
}

type Place = (Arc<Mutex<World>>, Arc<Commands>);

impl Router {
    fn place(&self, task: &str, metadata: &MetadataMap) -> Result<Place, Status> {
        let gone = || Status::not_found("no such task");
        let (account, id) = task.strip_prefix("ta-").and_then(|rest| rest.rsplit_once('/')).ok_or_else(gone)?;
        let world = self.accounts.lock().unwrap().get(account).cloned().ok_or_else(gone)?;
        let commands = {
            let mut locked = world.lock().unwrap();
            if locked.result(id)?.is_some() {
                return Err(gone());
            }
            let commands = locked.get(id)?.commands.clone();
            if locked.chance(0.05) {
                commands.end_accesses();
            }
            commands
        };
        let bearer = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !commands.is_access(bearer.trim_start_matches("Bearer ")) {
            return Err(Status::unauthenticated("the access has ended"));
        }
        Ok((world, commands))
    }

    fn exec(&self, task: &str, exec: &str, metadata: &MetadataMap) -> Result<(Arc<Mutex<World>>, Arc<Exec>), Status> {
        let (world, commands) = self.place(task, metadata)?;
        let exec = commands.get(exec).ok_or_else(|| Status::not_found("no such command"))?;
        Ok((world, exec))
    }
}

/// After how many bytes a stream breaks.
fn break_after(world: &Mutex<World>) -> Option<usize> {
    let mut world = world.lock().unwrap();
    let breaks = world.chance(0.3);
    world.streams_broken += u64::from(breaks);
    breaks.then(|| {
        let most = [8, 1 << 10, 1 << 20][world.rng.random_range(0..3)];
        world.rng.random_range(0..most)
    })
}

fn lost(world: &Mutex<World>) -> Result<(), Status> {
    match world.lock().unwrap().chance(0.1) {
        true => Err(Status::unavailable("the answer is lost")),
        false => Ok(()),
    }
}

#[tonic::async_trait]
impl TaskCommandRouter for Router {
    async fn task_exec_start(&self, request: Request<TaskExecStartRequest>) -> Answer<TaskExecStartResponse> {
        let metadata = request.metadata().clone();
        let message = request.into_inner();
        let (world, commands) = self.place(&message.task_id, &metadata)?;
        if message.command_args.iter().map(String::len).sum::<usize>() > 65_536 {
            return Err(Status::invalid_argument("too many words"));
        }
        let started = commands.start(&message.exec_id, &message.command_args);
        started.map_err(|why| Status::failed_precondition(format!("{}: {why}", message.command_args[0])))?;
        lost(&world)?;
        Ok(Response::new(TaskExecStartResponse {}))
    }

    async fn task_exec_stdin_status(
        &self,
        request: Request<TaskExecStdinStatusRequest>,
    ) -> Answer<TaskExecStdinStatusResponse> {
        let metadata = request.metadata().clone();
        let message = request.into_inner();
        let (_, exec) = self.exec(&message.task_id, &message.exec_id, &metadata)?;
        // A write in progress is waited for, as Modal ends the stream that does it.
        let _input = exec.input.lock().await;
        let num_bytes_written = exec.taken.load(Ordering::SeqCst);
        Ok(Response::new(TaskExecStdinStatusResponse { num_bytes_written, closed: exec.closed.load(Ordering::SeqCst) }))
    }

    async fn task_exec_stdin_write_stream(
        &self,
        request: Request<Streaming<TaskExecStdinWriteStreamRequest>>,
    ) -> Answer<TaskExecStdinWriteStreamResponse> {
        let metadata = request.metadata().clone();
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|message| message.payload);
        let Some(Payload::Start(start)) = first else {
            return Err(Status::invalid_argument("a stream begins with its start"));
        };
        let (world, exec) = self.exec(&start.task_id, &start.exec_id, &metadata)?;
        let mut left = break_after(&world);
        let mut offset = start.offset;
        while let Some(message) = stream.message().await? {
            match message.payload {
                Some(Payload::Data(data)) => {
                    let most = left.unwrap_or(usize::MAX).min(data.len());
                    if !exec.write(offset, &data[..most]).await {
                        return Err(Status::failed_precondition("the command takes no input"));
                    }
                    offset += most as u64;
                    if most < data.len() {
                        return Err(Status::unavailable("the stream broke"));
                    }
                    left = left.map(|left| left - most);
                }
                Some(Payload::End(_)) => {
                    exec.close().await;
                    lost(&world)?;
                    return Ok(Response::new(TaskExecStdinWriteStreamResponse {}));
                }
                _ => return Err(Status::invalid_argument("a second start")),
            }
        }
        Err(Status::cancelled("no end"))
    }

    type TaskExecStdioReadStream =
        Pin<Box<dyn futures_util::Stream<Item = Result<TaskExecStdioReadResponse, Status>> + Send>>;

    async fn task_exec_stdio_read(
        &self,
        request: Request<TaskExecStdioReadRequest>,
    ) -> Answer<Self::TaskExecStdioReadStream> {
        let metadata = request.metadata().clone();
        let message = request.into_inner();
        let (world, exec) = self.exec(&message.task_id, &message.exec_id, &metadata)?;
        let from = exec.outputs[usize::from(message.file_descriptor == 1)].clone();
        let state = (from, message.offset as usize, break_after(&world));
        let stream = futures_util::stream::unfold(Some(state), |state| async move {
            let (mut from, offset, left) = state?;
            if left == Some(0) {
                return Some((Err(Status::unavailable("the stream broke")), None));
            }
            loop {
                let (piece, ended) = {
                    let written = from.borrow_and_update();
                    let end = written.bytes.len().min(offset.saturating_add(left.unwrap_or(1 << 16)));
                    (written.bytes.get(offset..end).unwrap_or_default().to_vec(), written.ended)
                };
                if !piece.is_empty() {
                    let count = piece.len();
                    let next = (from, offset + count, left.map(|left| left - count));
                    return Some((Ok(TaskExecStdioReadResponse { data: piece }), Some(next)));
                }
                if ended || from.changed().await.is_err() {
                    return None;
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn task_exec_wait(&self, request: Request<TaskExecWaitRequest>) -> Answer<TaskExecWaitResponse> {
        let metadata = request.metadata().clone();
        let message = request.into_inner();
        let (world, exec) = self.exec(&message.task_id, &message.exec_id, &metadata)?;
        lost(&world)?;
        let mut exit = exec.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.map_err(|_| Status::internal("lost"))?;
        let (by_itself, code) = ended.unwrap_or((true, 0));
        let status = if by_itself { ExitStatus::Code(code) } else { ExitStatus::Signal(code) };
        Ok(Response::new(TaskExecWaitResponse { exit_status: Some(status) }))
    }
}
