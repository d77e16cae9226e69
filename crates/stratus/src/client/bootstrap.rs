//! `stratus image bootstrap`: a base image without any registry. The packages are fetched and unpacked here, as the user,
//! and the root file system goes to the daemon while it is made.

use std::process::ExitCode;

use clap::Args;
use image::RunConfig;
use image::bootstrap::{BootstrapEvent, BootstrapSpec, ImportMetadata, Variant, prepare};
use serde_json::json;

use super::archives::Import;
use super::error::{Error, Result};
use super::output::Format;
use super::progress::{Show, Single};
use super::transfer::Upload;
use super::{Context, human};

/// Make a base image, from a distribution's packages
#[derive(Args, Debug)]
pub(crate) struct BootstrapArgs {
    /// Architecture, as dpkg calls it [default: this machine's]
    #[arg(long, value_name = "ARCHITECTURE")]
    arch: Option<String>,
    /// Further packages, with commas between them; repeats
    #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
    include: Vec<String>,
    /// Mirror of the distribution [default: what this machine uses]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Name of the image [default: DISTRIBUTION:SUITE]
    #[arg(long, short, value_name = "NAME")]
    tag: Option<String>,
    /// Which packages there are: essential, apt, minbase, buildd, important or standard [default: minbase]
    #[arg(long, value_name = "VARIANT")]
    variant: Option<Variant>,
    /// What to make: debian:SUITE, ubuntu:SUITE or busybox
    #[arg(value_name = "DISTRIBUTION:SUITE")]
    spec: BootstrapSpec,
}

impl BootstrapArgs {
    fn spec(&self) -> Result<BootstrapSpec> {
        let usage = |error: image::bootstrap::SpecError| Error::Usage(error.to_string());
        let mut spec = self.spec.clone().include(self.include.iter().cloned()).map_err(usage)?;
        if let Some(mirror) = &self.mirror {
            spec = spec.mirror(mirror).map_err(usage)?;
        }
        if let Some(variant) = self.variant {
            spec = spec.variant(variant).map_err(usage)?;
        }
        if let Some(architecture) = &self.arch {
            spec = spec.architecture(architecture).map_err(usage)?;
        }
        Ok(spec)
    }
}

/// `stratus image bootstrap`
pub(super) async fn bootstrap(context: &Context, args: BootstrapArgs) -> Result<ExitCode> {
    let spec = args.spec()?;
    let progress =
        Single::bytes(&format!("preparing {}", spec.reference().familiar()), None, context.format == Format::Table);
    let (tell, told) = tokio::sync::oneshot::channel();
    let bar = progress.clone();
    let (upload, body) = Upload::new(move |sink| {
        let shown = |event| show(&bar, event);
        let prepared = match prepare(&spec, &shown) {
            Ok(prepared) => prepared,
            Err(error) => {
                // Told to whoever waits, who may look before this has ended.
                let _ = tell.send(Err(Error::from(error)));
                return Ok(());
            }
        };
        // Where nobody waits for it, nobody reads the archive either, which the writing finds out.
        let _ = tell.send(Ok(prepared.metadata()));
        prepared.write(sink, &shown)?;
        Ok(())
    });
    // What the image is besides its files is known before them, so that they are imported while they are made.
    let gone = |_| Error::Failed("making the image was given up".into());
    let metadata: ImportMetadata = match told.await.map_err(gone).and_then(|told| told) {
        Ok(metadata) => metadata,
        failure => {
            progress.end();
            upload.outcome(failure)?
        }
    };
    let name = args.tag.clone().unwrap_or_else(|| metadata.reference.familiar());
    let changes = changes(&metadata.config.config);
    let platform = metadata.platform.to_string();
    let import =
        Import { name: Some(&name), message: Some(&metadata.created_by), changes: &changes, platform: Some(&platform) };
    let said =
        import.send(context, body, if context.format == Format::Json { Show::Documents } else { Show::Nothing }).await;
    progress.end();
    let said = upload.outcome(said)?;
    if context.format == Format::Table {
        let id = said.last().map_or("", |id| human::short(id));
        super::output::line(format!("{name} is ready ({id}). Run it with: stratus run --rm -it {name} sh"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(bar: &Single, event: BootstrapEvent) {
    match event {
        BootstrapEvent::Phase(text) => bar.step(&text),
        BootstrapEvent::Warning(text) => bar.warn(&text),
        BootstrapEvent::Written(bytes) => bar.at(bytes),
    }
}

/// The instructions that set what a configuration says.
fn changes(config: &RunConfig) -> Vec<String> {
    let mut changes = Vec::new();
    for variable in &config.env {
        if let Some((name, value)) = variable.split_once('=') {
            changes.push(format!("ENV {name}={}", json!(value)));
        }
    }
    for (name, value) in &config.labels {
        changes.push(format!("LABEL {}={}", json!(name), json!(value)));
    }
    if !config.user.is_empty() {
        changes.push(format!("USER {}", config.user));
    }
    if !config.working_dir.is_empty() {
        changes.push(format!("WORKDIR {}", config.working_dir));
    }
    for (instruction, words) in [("ENTRYPOINT", &config.entrypoint), ("CMD", &config.cmd)] {
        if let Some(words) = words {
            changes.push(format!("{instruction} {}", json!(words)));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_say_what_the_configuration_says() {
        let config = RunConfig {
            env: vec!["PATH=/bin".into(), "A=b c\"d".into()],
            cmd: Some(vec!["sh".into(), "-l".into()]),
            labels: [("a.b".to_owned(), "c d".to_owned())].into(),
            ..RunConfig::default()
        };
        let changes = changes(&config);
        assert_eq!(changes, [r#"ENV PATH="/bin""#, r#"ENV A="b c\"d""#, r#"LABEL "a.b"="c d""#, r#"CMD ["sh","-l"]"#]);
    }
}
