//! stratus as a service of an ordinary server: systemd's unit and socket, an upgrade in place, limits by cgroup v2.
//!
//! These change the machine that they run on, so they are ignored elsewhere: `cargo xtask server` boots one for them.

use e2e::Server;

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn a_service_of_the_machine() {
    let host = Server::install();
    host.sh("systemctl enable --now stratus && systemctl is-active stratus.service stratus.socket")
        .says("active\nactive");
    host.import_busybox();
    host.sh("docker run --rm busybox echo hello").says("hello");
}
