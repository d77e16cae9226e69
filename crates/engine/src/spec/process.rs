//! The process of a container, and those that exec adds.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{Box, BoxBuilder, Capability, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::{Identity, SecurityOptions, SpecContext, capabilities, defaults};
use crate::model::{ContainerRecord, Ulimit};
use crate::{Error, Result};

/// The container's own process.
pub(super) fn of(
    record: &ContainerRecord,
    context: &SpecContext<'_>,
    security: &SecurityOptions,
    caps: HashSet<Capability>,
) -> Result<Process> {
    let argv = record.argv();
    if argv.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    let tty = record.config.tty;
    let cwd = if record.config.working_dir.is_empty() { "/" } else { &record.config.working_dir };
    let mut process = Process::default();
    process
        .set_terminal(Some(tty))
        .set_console_size(record.host.console_size.map(console_size))
        .set_user(user(context.identity))
        .set_args(Some(argv))
        .set_env(Some(environment(record, &context.links, tty, context.identity)))
        .set_cwd(PathBuf::from(cwd))
        .set_capabilities(Some(capabilities::sets(caps)))
        .set_rlimits(Some(rlimits(&record.host.resources.ulimits)?))
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(context.apparmor.clone())
        .set_oom_score_adj(Some(record.host.oom_score_adj));
    Ok(process)
}

/// What an exec asks for.
pub(crate) struct ExecRequest<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a [String],
    pub(crate) working_dir: &'a str,
    pub(crate) tty: bool,
    /// Rows and columns of its terminal.
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) privileged: bool,
    /// Variables of its links.
    pub(crate) links: &'a [String],
    pub(crate) apparmor: Option<String>,
}

/// A further process in the container of `record`.
pub(crate) fn exec_process(
    record: &ContainerRecord,
    request: &ExecRequest<'_>,
    identity: &Identity,
) -> Result<Process> {
    let security = SecurityOptions::parse(&record.host.security_opt)?;
    let mut host = record.host.clone();
    host.privileged |= request.privileged;
    let mut env = environment(record, request.links, request.tty, identity);
    for variable in request.env {
        replace_or_append(&mut env, variable);
    }
    let configured = if record.config.working_dir.is_empty() { "/" } else { &record.config.working_dir };
    let cwd = if request.working_dir.is_empty() { configured } else { request.working_dir };
    let mut process = Process::default();
    process
        .set_terminal(Some(request.tty))
        .set_console_size(request.console_size.map(console_size))
        .set_user(user(identity))
        .set_args(Some(request.argv.to_vec()))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(cwd))
        .set_capabilities(Some(capabilities::sets(capabilities::effective(&host)?)))
        .set_rlimits(Some(rlimits(&record.host.resources.ulimits)?))
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(request.apparmor.clone())
        .set_oom_score_adj(Some(record.host.oom_score_adj));
    Ok(process)
}

/// A program can ask for it as soon as it runs.
fn console_size((rows, columns): (u16, u16)) -> Box {
    // Both are there, which is all that the builder wants.
    BoxBuilder::default().height(rows).width(columns).build().unwrap_or_default()
}

fn user(identity: &Identity) -> User {
    let mut additional = identity.additional_gids.clone();
    if !additional.contains(&identity.gid) {
        additional.insert(0, identity.gid);
    }
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(additional));
    user
}

/// `PATH`, `HOSTNAME` and `TERM` first, then those of its links, then the container's own variables over them, then `HOME`
/// where nobody set it.
fn environment(record: &ContainerRecord, links: &[String], tty: bool, identity: &Identity) -> Vec<String> {
    let mut env = vec![defaults::PATH.to_owned(), format!("HOSTNAME={}", record.config.hostname)];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    for variable in links.iter().chain(&record.config.env) {
        replace_or_append(&mut env, variable);
    }
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home.as_deref().unwrap_or("/")));
    }
    env
}

/// A name without `=` takes the variable away, as in `docker run -e NAME` where the client has none.
fn replace_or_append(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or(variable);
    let same = |have: &String| have.split('=').next() == Some(name);
    if !variable.contains('=') {
        env.retain(|have| !same(have));
        return;
    }
    match env.iter_mut().find(|have| same(have)) {
        Some(have) => variable.clone_into(have),
        None => env.push(variable.to_owned()),
    }
}

fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    ulimits
        .iter()
        .map(|ulimit| {
            let kind: PosixRlimitType =
                serde_json::from_value(format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()).into())
                    .map_err(|_| Error::invalid(format!("invalid ulimit type: {}", ulimit.name)))?;
            let value = |limit: i64| if limit < 0 { u64::MAX } else { limit as u64 };
            let rlimit = PosixRlimitBuilder::default().typ(kind).soft(value(ulimit.soft)).hard(value(ulimit.hard));
            rlimit.build().map_err(|error| Error::invalid(format!("ulimit {}: {error}", ulimit.name)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_replace_earlier_ones_in_place() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        replace_or_append(&mut env, "A=3");
        replace_or_append(&mut env, "B");
        replace_or_append(&mut env, "C=");
        assert_eq!(env, ["A=3", "C="]);
    }
}
