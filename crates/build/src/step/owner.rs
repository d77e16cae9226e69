//! Who `--chown` names: in numbers, or in the words of the image's `/etc/passwd` and `/etc/group`.

use crate::dockerfile::{Identity, Owner};
use image::tree;
use rustix::fd::AsFd;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::Read as _;

/// More than any user database has.
const MOST: u64 = 16 << 20;

/// The numbers of an owner, in a root file system that is seen at `below`; `None`: there is none.
pub(super) fn numbers(owner: &Owner, below: Option<&impl AsFd>) -> Result<(u32, u32), String> {
    let database = |path: &str| match below {
        Some(below) => read(below, path),
        None => Ok(String::new()),
    };
    let (uid, own_group) = match &owner.user {
        Identity::Number(uid) => (*uid, *uid),
        Identity::Name(name) => {
            let passwd = database("etc/passwd")?;
            let entry = entry(&passwd, name)
                .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)));
            entry.ok_or_else(|| format!("unable to find user {name}: the image's /etc/passwd has none of that name"))?
        }
    };
    let gid = match &owner.group {
        None => own_group,
        Some(Identity::Number(gid)) => *gid,
        Some(Identity::Name(name)) => {
            let group = database("etc/group")?;
            let gid = entry(&group, name).and_then(|fields| fields.get(2)?.parse().ok());
            gid.ok_or_else(|| format!("unable to find group {name}: the image's /etc/group has none of that name"))?
        }
    };
    Ok((uid, gid))
}

/// The fields of the entry of a name (passwd(5), group(5)).
fn entry<'d>(database: &'d str, name: &str) -> Option<Vec<&'d str>> {
    database.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))
}

fn read(below: &impl AsFd, path: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("reading /{path} of the image: {e}");
    let file = match tree::open(below.as_fd(), path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
