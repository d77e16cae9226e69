//! How a file server comes by its memory and its rings: as vhost-user's front end, by the crate `vhost`.

use super::super::feature;
use super::QUEUES;
use super::shared::{REQUESTS, Ring, Shared, URGENT};
use crate::error::{Error, Result};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// The connection to a server, which ends with it.
pub(crate) struct Connection {
    _frontend: Frontend,
}

/// Gives the server at the other end of a socket memory and rings of its own: one of what must not wait, one of requests.
///
/// # Errors
/// It does not speak vhost-user, or not what this needs of it.
pub(crate) fn connect(socket: UnixStream) -> Result<(Connection, [Ring; QUEUES])> {
    let (shared, rings) = Shared::with_rings([URGENT, REQUESTS])?;
    let frontend = introduce(socket, &shared, &rings);
    let frontend =
        frontend.map_err(|error| Error::Host { what: "speak with a file server", source: io::Error::other(error) })?;
    Ok((Connection { _frontend: frontend }, rings))
}

fn introduce(socket: UnixStream, shared: &Shared, rings: &[Ring; QUEUES]) -> Result<Frontend, vhost::Error> {
    let mut server = Frontend::from_stream(socket, QUEUES as u64);
    server.set_owner()?;
    let offered = server.get_features()?;
    let wanted = feature::VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    server.set_features(offered & wanted)?;
    // Each request is answered, so that one that fails is known to have.
    let answers = VhostUserProtocolFeatures::REPLY_ACK;
    let protocol = server.get_protocol_features()? & (answers | VhostUserProtocolFeatures::MQ);
    server.set_protocol_features(protocol)?;
    if protocol.contains(answers) {
        server.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let mapped = shared.memory.get_host_address(GuestAddress(0)).map_err(|_| vhost::Error::InvalidGuestMemory)?;
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: shared.size,
        // By these the server finds the rings, and nothing else: each side has the memory at addresses of its own.
        userspace_addr: mapped as u64,
        mmap_offset: 0,
        mmap_handle: shared.file.as_raw_fd(),
    };
    server.set_mem_table(&[region])?;
    for (number, ring) in rings.iter().enumerate() {
        let [descriptors, available, used] = ring.tables().map(|table| mapped as u64 + table);
        server.set_vring_num(number, ring.entries())?;
        let addresses = VringConfigData {
            queue_max_size: ring.entries(),
            queue_size: ring.entries(),
            flags: 0,
            desc_table_addr: descriptors,
            used_ring_addr: used,
            avail_ring_addr: available,
            log_addr: None,
        };
        server.set_vring_addr(number, &addresses)?;
        server.set_vring_base(number, 0)?;
        server.set_vring_call(number, ring.answered())?;
        server.set_vring_kick(number, ring.kick())?;
        server.set_vring_enable(number, true)?;
    }
    Ok(server)
}
