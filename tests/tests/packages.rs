//! What an image is made of is listed.

use e2e::Daemon;

const STATUS: &str = "\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u4

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: amd64
";

#[test]
fn the_packages_of_an_image_are_listed_for_people_and_for_programs() {
    let host = Daemon::start();
    let write = |path: &str, text: &str| {
        let path = host.work().join("app").join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory for it");
        std::fs::write(path, text).expect("the file");
    };
    write("status", STATUS);
    write("release", "ID=debian\nVERSION_ID=\"12\"\n");
    write("Dockerfile", "FROM busybox\nCOPY status /var/lib/dpkg/status\nCOPY release /etc/os-release\n");
    host.sh("$STRATUS build -q -t app app").ok();
    host.sh("$STRATUS image packages app | tr -s ' '").mentions("libc6 2.36-9+deb12u4 glibc").omits("gone");
    let document = host.sh("$STRATUS image packages --output json app").json();
    let id = host.sh("docker images -q --no-trunc app").text().to_owned();
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["name"], id);
    assert_eq!(
        document["packages"][1]["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12"
    );
    // Nothing of the day is in it.
    assert_eq!(host.sh("$STRATUS image packages --output json app").json(), document);
    host.sh("$STRATUS image packages --output json busybox | jq '.packages | length'").says("1");
    host.sh("$STRATUS image packages nothing").fails_with("No such image: nothing");
    // A link out of the image leads nowhere, and a database that can't be read is named.
    write(
        "Dockerfile",
        "FROM busybox\nRUN mkdir -p /var/lib/dpkg /var/lib/rpm && ln -s /proc/self/mounts /var/lib/dpkg/status && touch /var/lib/rpm/Packages\n",
    );
    host.sh("$STRATUS build -q -t odd app").ok();
    host.sh("$STRATUS image packages odd").ok().complains("/var/lib/rpm/Packages: this is no database of RPM");
    host.sh("docker rmi app odd && docker builder prune -af").ok();
}
