//! When nobody asks for anything, the daemon gives back the memory that it does not need.

use std::sync::Arc;
use std::time::Duration;

use api_docker::Door;

/// So long after it is ready, what is prepared ahead of need is prepared.
const SETTLED: Duration = Duration::from_millis(500);
/// So long nobody asks, and it is quiet.
const QUIET: Duration = Duration::from_secs(30);

/// Gives back what the start needed, and then, each time it gets quiet, what was needed until then.
pub(super) async fn give_back_for_ever(door: Arc<Door>) {
    tokio::time::sleep(SETTLED).await;
    let mut given_at = door.requests();
    give_back().await;
    loop {
        let before = door.requests();
        tokio::time::sleep(QUIET).await;
        let now = door.requests();
        if now == before && now != given_at {
            given_at = now;
            give_back().await;
        }
    }
}

async fn give_back() {
    // Where a thread's panic ended it, the memory is what it was.
    let _ = tokio::task::spawn_blocking(sandbox::residence::give_back).await;
}
