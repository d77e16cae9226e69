//! Many tasks, one connection.
#![cfg(feature = "async")]

mod support;

use keeper::client::{AsyncClient, ClientError, List, Stats};
use keeper::protocol::{Event, ExitStatus, Failure, Request};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_ask_at_once_and_each_gets_its_own_answer() {
    let (keeper, _client) = Keeper::start();
    let (client, mut events) = AsyncClient::connect(keeper.run_dir()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0u8..100 {
        let client = client.clone();
        tasks.spawn(async move {
            let id = format!("job{number}");
            if number % 10 == 9 {
                let missing = client.call(program_of(&id, &["/no/such/program"])).await;
                assert!(matches!(missing, Err(ClientError::Failed(Failure::Program { .. }))));
            } else {
                client.call(shell(&id, &format!("exit {number}"))).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut codes = std::collections::BTreeSet::new();
    while codes.len() < 90 {
        match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            Event::Exited { id, exit, .. } => {
                let ExitStatus::Code(code) = exit.status else { panic!("{}", exit.status) };
                assert_eq!(id, format!("job{code}"));
                codes.insert(code);
                client.post(Request::Forget { id }).await.unwrap();
            }
            // A copy of the end of its output was held for a moment longer by a process that was being cloned.
            Event::OutputEnded { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(client.call(List).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_end_of_a_keeper_ends_every_call() {
    let (keeper, _client) = Keeper::start();
    let (client, mut events) = AsyncClient::connect(keeper.run_dir()).await.unwrap();
    client.call(Stats).await.unwrap();
    keeper.kill();
    assert!(matches!(client.call(List).await, Err(ClientError::Disconnected)));
    assert_eq!(events.recv().await, None);
    assert!(matches!(client.call(List).await, Err(ClientError::Disconnected)));
}

#[tokio::test]
async fn a_client_that_nobody_holds_disconnects() {
    let (keeper, mut watcher) = Keeper::start();
    let (client, mut events) = AsyncClient::connect(keeper.run_dir()).await.unwrap();
    assert_eq!(watcher.call(Stats).unwrap().connections, 2);
    drop(client);
    assert_eq!(events.recv().await, None);
    // A process that another test is starting may hold a copy of the socket for a moment.
    while watcher.call(Stats).unwrap().connections > 1 {}
}
