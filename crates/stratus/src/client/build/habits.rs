//! Flags that those are used to who built with `docker`: what changes nothing is taken, and of the rest the way here is said.

use clap::{ArgAction, Args};

/// Flags of `docker build` that `stratus build --help` does not list.
#[derive(Args, Debug)]
pub(super) struct Habits {
    /// Containers of steps are always removed. As buildx, whatever is said
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_missing_value = "true")]
    rm: Option<bool>,
    /// As `--rm`
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_missing_value = "true")]
    force_rm: Option<bool>,
    /// What is sent is only what the daemon lacks. As buildx, whatever is said
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_missing_value = "true")]
    compress: Option<bool>,
    #[arg(long, hide = true, value_parser = isolation)]
    isolation: Option<String>,
    #[arg(long, hide = true, value_parser = no_security_opt)]
    security_opt: Option<String>,
    #[arg(long, hide = true, value_parser = no_cgroup_parent)]
    cgroup_parent: Option<String>,
    #[arg(long, hide = true, value_parser = no_builder)]
    builder: Option<String>,
    #[arg(long, hide = true, value_parser = call)]
    call: Option<String>,
}

type Taken = Result<String, &'static str>;

fn isolation(text: &str) -> Taken {
    match text {
        "" | "default" => Ok(text.to_owned()),
        _ => Err("steps run in containers, as with default: leave it out"),
    }
}

fn no_security_opt(_: &str) -> Taken {
    Err("RUN --security=insecure, with --allow security.insecure, runs a step with all privileges")
}

fn no_cgroup_parent(_: &str) -> Taken {
    Err(
        "steps run in the daemon's cgroup: --memory, --cpus and --pids-limit say what one may take; docker build has this flag",
    )
}

fn no_builder(_: &str) -> Taken {
    Err("the daemon is the builder: --host, before build, says which one is meant")
}

fn call(text: &str) -> Taken {
    match text {
        "build" => Ok(text.to_owned()),
        "check" | "lint" => Err("stratus build --check does that"),
        _ => Err("stratus build --print says what there is to do"),
    }
}
