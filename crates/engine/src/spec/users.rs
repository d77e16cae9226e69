//! `--user` and `--group-add` names become numbers, by the container's own `/etc/passwd` and `/etc/group`
//! (formats: passwd(5), group(5)).

use crate::{Error, Result};

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) home: Option<String>,
}

/// The user database of a root file system, as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct UserDatabase {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl UserDatabase {
    /// Who `user` (`name|uid[:group|gid]`, empty: root) is, with `groups` besides.
    pub(crate) fn identify(&self, user: &str, groups: &[String]) -> Result<Identity> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let mut identity = self.user(user)?;
        if let Some(group) = group {
            identity.gid = self.group_id(group)?.ok_or_else(|| {
                Error::invalid(format!("unable to find group {group}: no matching entries in group file"))
            })?;
            identity.additional_gids.clear();
        }
        for group in groups {
            let gid = self.group_id(group)?.ok_or_else(|| {
                Error::invalid(format!("Unable to find group {group}: no matching entries in group file"))
            })?;
            if !identity.additional_gids.contains(&gid) {
                identity.additional_gids.push(gid);
            }
        }
        Ok(identity)
    }

    fn user(&self, wanted: &str) -> Result<Identity> {
        let number = number(wanted)?;
        let wanted_name = if wanted.is_empty() { "root" } else { wanted };
        let by_name = self.users().find(|user| user.name == wanted_name);
        let by_number = || number.and_then(|number| self.users().find(|user| user.uid == number));
        match (by_name.or_else(by_number), number) {
            (Some(user), _) => Ok(Identity {
                uid: user.uid,
                gid: user.gid,
                additional_gids: self.memberships(user.name),
                home: Some(user.home.to_owned()).filter(|home| !home.is_empty()),
            }),
            (None, Some(uid)) => Ok(Identity { uid, ..Identity::default() }),
            (None, None) if wanted.is_empty() => Ok(Identity::default()),
            (None, None) => {
                Err(Error::invalid(format!("unable to find user {wanted}: no matching entries in passwd file")))
            }
        }
    }

    fn group_id(&self, wanted: &str) -> Result<Option<u32>> {
        let by_name = self.groups().find(|group| group.name == wanted).map(|group| group.gid);
        Ok(by_name.or(number(wanted)?))
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let member = |group: &Group<'_>| group.members.split(',').any(|member| member.trim() == user);
        self.groups().filter(member).map(|group| group.gid).collect()
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?);
            Some(User { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _) = (fields.next()?, fields.next()?);
            Some(Group { name, gid: fields.next()?.trim().parse().ok()?, members: fields.next().unwrap_or_default() })
        })
    }
}

/// The number that `text` is, if it is one; numbers that no user can have are refused.
fn number(text: &str) -> Result<Option<u32>> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= i32::MAX as u32 => Ok(Some(number)),
        _ => Err(Error::invalid("uids and gids must be in range 0-2147483647")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> UserDatabase {
        UserDatabase {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nbroken\n".into(),
            group: "root:x:0:\naudio:x:29:web,root\nweb:x:34:\n".into(),
        }
    }

    #[test]
    fn nobody_named_is_root_with_its_home() {
        let root = database().identify("", &[]).unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_deref()), (0, 0, Some("/root")));
        assert_eq!(root.additional_gids, [29]);
    }

    #[test]
    fn names_and_numbers_find_the_same_user() {
        assert_eq!(database().identify("web", &[]).unwrap(), database().identify("33", &[]).unwrap());
    }

    #[test]
    fn a_group_given_by_hand_replaces_the_memberships() {
        let web = database().identify("web:audio", &["root".into()]).unwrap();
        assert_eq!((web.gid, web.additional_gids), (29, vec![0]));
    }

    #[test]
    fn a_number_without_an_entry_is_taken_as_it_is() {
        let user = database().identify("4000:5000", &[]).unwrap();
        assert_eq!((user.uid, user.gid, user.home), (4000, 5000, None));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let error = database().identify("nemo", &[]).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user nemo: no matching entries in passwd file");
        assert!(database().identify("4294967295", &[]).is_err());
    }
}
