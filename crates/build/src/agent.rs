//! Agents that whoever asks for a build lends: what asks them here has a socket.

use crate::request::Lender;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// How long to wait when the system has no descriptor left for a connection.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Gives each connection to an agent. It goes on until it is dropped.
pub(crate) async fn carry(listener: UnixListener, id: String, lender: Arc<dyn Lender>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((command, _)) => drop(connections.spawn(lender.agent(&id, command))),
            Err(error) => {
                tracing::warn!(%error, "a connection to an SSH agent can't be accepted");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}
