//! What the client asked, over what the image says.

use std::time::Duration;

use crate::model::{ContainerConfig, HealthTest, Healthcheck};
use crate::{Error, Result};

/// Merges the image's `run` configuration below `config`, by dockerd's rules.
pub(super) fn merge(config: &mut ContainerConfig, run: &image::RunConfig) -> Result<()> {
    if config.user.is_empty() {
        config.user.clone_from(&run.user);
    }
    for port in &run.exposed_ports {
        config.exposed_ports.insert(port.parse().map_err(Error::invalid)?);
    }
    merge_env(&mut config.env, &run.env);
    for (key, value) in &run.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    // An entrypoint given by the client takes the image's command away with the image's entrypoint.
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&run.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&run.entrypoint);
        }
    }
    // `--entrypoint ""` comes as one empty text: no entrypoint at all.
    if config.entrypoint.as_deref().is_some_and(|entrypoint| entrypoint == [""]) {
        config.entrypoint = None;
    }
    merge_health(config, run.healthcheck.as_ref());
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&run.working_dir);
    }
    config.volumes.extend(run.volumes.iter().cloned());
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&run.stop_signal);
    }
    config.stop_timeout = config.stop_timeout.or(run.stop_timeout);
    if config.shell.is_none() && !run.shell.is_empty() {
        config.shell = Some(run.shell.clone());
    }
    if config.on_build.is_none() && !run.on_build.is_empty() {
        config.on_build = Some(run.on_build.clone());
    }
    Ok(())
}

/// The image's variables come after the client's where the client has none of that name, as dockerd appends them.
fn merge_env(env: &mut Vec<String>, image: &[String]) {
    fn name(variable: &str) -> &str {
        variable.split('=').next().unwrap_or(variable)
    }
    let missing: Vec<String> =
        image.iter().filter(|ours| !env.iter().any(|theirs| name(theirs) == name(ours))).cloned().collect();
    env.extend(missing);
}

fn merge_health(config: &mut ContainerConfig, image: Option<&image::Healthcheck>) {
    let Some(image) = image.map(health_of) else { return };
    let Some(own) = &mut config.healthcheck else {
        config.healthcheck = Some(image);
        return;
    };
    if own.test == HealthTest::Inherit {
        own.test = image.test;
    }
    let inherit = |own: &mut Duration, image: Duration| {
        if own.is_zero() {
            *own = image;
        }
    };
    inherit(&mut own.interval, image.interval);
    inherit(&mut own.timeout, image.timeout);
    inherit(&mut own.start_period, image.start_period);
    inherit(&mut own.start_interval, image.start_interval);
    if own.retries == 0 {
        own.retries = image.retries;
    }
}

/// The image's health check in the engine's terms.
fn health_of(image: &image::Healthcheck) -> Healthcheck {
    let duration = |nanos: i64| Duration::from_nanos(nanos.max(0) as u64);
    let test = match image.test.split_first() {
        None => HealthTest::Inherit,
        Some((kind, rest)) => match kind.as_str() {
            "NONE" => HealthTest::None,
            "CMD" => HealthTest::Command(rest.to_vec()),
            "CMD-SHELL" => HealthTest::Shell(rest.join(" ")),
            _ => HealthTest::Command(image.test.clone()),
        },
    };
    Healthcheck {
        test,
        interval: duration(image.interval),
        timeout: duration(image.timeout),
        start_period: duration(image.start_period),
        start_interval: duration(image.start_interval),
        retries: image.retries.max(0) as u32,
    }
}

/// Puts what `over` says over a container's own configuration, as `commit` with a configuration does.
pub(super) fn override_with(config: &mut ContainerConfig, over: ContainerConfig) {
    macro_rules! take {
        ($($field:ident),*) => { $(if !over.$field.is_empty() { config.$field = over.$field; })* };
    }
    take!(hostname, domainname, user, working_dir, stop_signal, env, exposed_ports, volumes, labels);
    config.cmd = over.cmd.filter(|cmd| !cmd.is_empty()).or(config.cmd.take());
    config.entrypoint = over.entrypoint.filter(|entrypoint| !entrypoint.is_empty()).or(config.entrypoint.take());
    config.healthcheck = over.healthcheck.or(config.healthcheck.take());
    config.on_build = over.on_build.or(config.on_build.take());
    config.shell = over.shell.or(config.shell.take());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> image::RunConfig {
        image::RunConfig {
            env: vec!["PATH=/bin".into(), "MODE=image".into()],
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["serve".into()]),
            ..image::RunConfig::default()
        }
    }

    fn merged(mut config: ContainerConfig) -> ContainerConfig {
        merge(&mut config, &run()).unwrap();
        config
    }

    #[test]
    fn an_entrypoint_of_the_client_drops_the_images_command() {
        let config = merged(ContainerConfig { entrypoint: Some(vec!["sh".into()]), ..ContainerConfig::default() });
        assert_eq!((config.entrypoint, config.cmd), (Some(vec!["sh".into()]), None));
    }

    #[test]
    fn a_command_of_the_client_keeps_the_images_entrypoint() {
        let config = merged(ContainerConfig { cmd: Some(vec!["once".into()]), ..ContainerConfig::default() });
        assert_eq!((config.entrypoint, config.cmd), (Some(vec!["/entry".into()]), Some(vec!["once".into()])));
    }

    #[test]
    fn the_clients_variables_win() {
        let config = merged(ContainerConfig { env: vec!["MODE=mine".into()], ..ContainerConfig::default() });
        assert_eq!(config.env, ["MODE=mine", "PATH=/bin"]);
    }
}
