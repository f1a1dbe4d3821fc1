//! How many connections the process's file descriptors allow.

use rustix::process::{Resource, getrlimit};

/// Most connections that are kept for operators when all others are taken.
const OPERATORS: usize = 16;
/// Descriptors of one replica: its probe, its scrape, and one connection more.
const REPLICA: usize = 3;

/// Connections that may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Clients' connections.
    pub(super) clients: usize,
    /// Connections beyond those, for health checks and administration.
    pub(super) operators: usize,
}

/// The connections allowed by `limits.connections` and by the descriptors that are free now: each client's connection
/// needs one for itself and one to a replica, and `replicas` need some without any client.
pub(super) fn room(connections: usize, replicas: usize) -> Room {
    let most =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    // Where the system does not tell, as many as a router without connections was seen to have.
    let used = std::fs::read_dir("/proc/self/fd").map_or(32, Iterator::count);
    let room = share(connections, replicas, most.saturating_sub(used));
    if room.clients < connections {
        tracing::warn!(
            "this process may open {most} files: {} connections of clients, not limits.connections = {connections}; \
             raise `ulimit -n` (LimitNOFILE of a systemd unit)",
            room.clients
        );
    }
    room
}

fn share(connections: usize, replicas: usize, free: usize) -> Room {
    let operators = (free / 8).clamp(2, OPERATORS);
    let clients = free.saturating_sub(operators + replicas * REPLICA) / 2;
    Room { clients: clients.clamp(1, connections), operators }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_between_clients_replicas_and_operators() {
        for (connections, replicas, free, clients, operators) in [
            (16_384, 2, 1_000_000, 16_384, 16),
            (16_384, 2, 1_000, 489, 16),
            (16_384, 1, 24, 9, 3),
            (16_384, 64, 24, 1, 3),
            (30, 1, 1_000, 30, 16),
        ] {
            assert_eq!(share(connections, replicas, free), Room { clients, operators }, "{free} free");
        }
        for free in 40..2_000 {
            let room = share(usize::MAX, 4, free);
            assert!(2 * room.clients + room.operators + 4 * REPLICA <= free, "{free}: {room:?}");
        }
    }
}
