//! A daemon that has no descriptor left. Apart from the other tests, as the limit is the whole process's.
#![cfg(feature = "async")]

mod support;

use keeper::client::{AsyncClient, Attach, ClientError, List};
use keeper::protocol::{Framing, Request};
use keeper::wire::WireError;
use rustix::process::{Resource, Rlimit};
use support::*;

#[tokio::test]
async fn an_answer_whose_descriptors_find_no_room_fails_its_request_only() {
    let (keeper, _client) = Keeper::start();
    let (client, _events) = AsyncClient::connect(keeper.run_dir()).await.unwrap();
    client.call(with_stdin(shell("job", "cat"), false)).await.unwrap();
    let attach = || {
        let (sink, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        Attach { id: "job".into(), options: everything(true, Framing::Raw), sink: sink.into() }
    };
    let (first, second) = (attach(), attach());
    let before = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
    let failed = client.call(first).await.unwrap_err();
    rustix::process::setrlimit(Resource::Nofile, before).unwrap();
    assert!(matches!(failed, ClientError::Wire(WireError::NoDescriptor { .. })), "{failed}");
    // On the same connection.
    assert!(client.call(second).await.unwrap().stdin.is_some());
    assert_eq!(client.call(List).await.unwrap().len(), 1);
    client.call(Request::Signal { id: "job".into(), signal: 9 }).await.unwrap();
}
