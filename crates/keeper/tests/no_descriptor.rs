//! A daemon that has no descriptor left. Apart from the other tests, as the limit is the whole process's.
#![cfg(feature = "async")]

mod support;

use keeper::client::{AsyncClient, Attach, ClientError, Events, Exec, List};
use keeper::protocol::{Event, Framing, Request, Stdio};
use keeper::wire::WireError;
use rustix::process::{Resource, Rlimit};
use support::*;

/// Does something while no descriptor is free.
async fn without_descriptors<T>(doing: impl Future<Output = T>) -> T {
    let before = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
    let done = doing.await;
    rustix::process::setrlimit(Resource::Nofile, before).unwrap();
    done
}

#[track_caller]
fn says_so<T: std::fmt::Debug>(outcome: Result<T, ClientError>) {
    let failed = outcome.unwrap_err();
    assert!(matches!(failed, ClientError::Wire(WireError::NoDescriptor { .. })), "{failed}");
}

async fn killed(events: &mut Events, wanted: &str) {
    let killed = async {
        loop {
            match events.recv().await.unwrap() {
                Event::Exited { id, exit, .. } if id == wanted => return exit.status,
                _ => {}
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, killed).await.unwrap_or_else(|_| panic!("{wanted} is left running"));
    assert_eq!(status.shell_code(), 137);
}

/// One test, as the limit holds for all of them.
#[tokio::test]
async fn an_answer_whose_descriptors_find_no_room_fails_its_request_only() {
    let (keeper, _client) = Keeper::start();
    let (client, mut events) = AsyncClient::connect(keeper.run_dir()).await.unwrap();
    client.call(with_stdin(shell("job", "cat"), false)).await.unwrap();
    let attach = || {
        let (sink, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        Attach { id: "job".into(), options: everything(true, Framing::Raw), sink: sink.into() }
    };
    let (first, second) = (attach(), attach());
    says_so(without_descriptors(client.call(first)).await);
    // On the same connection.
    assert!(client.call(second).await.unwrap().stdin.is_some());
    assert_eq!(client.call(List).await.unwrap().len(), 1);
    // What was begun in vain is ended: nobody has its streams.
    let stdio = Stdio::Pipes { stdin: true, stdin_once: false };
    let (sink, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let attach = vec![(everything(true, Framing::Raw), sink.into())];
    let exec = Exec { stdio, attach, ..exec_shell("job", "further", "exec sleep 1000") };
    says_so(without_descriptors(client.call(exec)).await);
    killed(&mut events, "further").await;
    let (create, _other) = attached(with_stdin(shell("other", "exec sleep 1000"), false), true, Framing::Raw);
    says_so(without_descriptors(client.call(create)).await);
    killed(&mut events, "other").await;
    client.call(Request::Signal { id: "job".into(), signal: 9 }).await.unwrap();
}
