//! `stratus inspect`

use std::process::ExitCode;

use super::connect::Daemon;
use super::error::{Error, Result};
use super::request::{Request, segment};
use super::{Context, output};
use clap::{Args, ValueEnum};

/// Show everything about containers, images, networks and volumes
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// What the names are of [default: whatever has such a name]
    #[arg(long = "type", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// Also what containers take on the disk
    #[arg(long, short)]
    size: bool,
    // Docker's short name of `--format`. It prints documents in any case, and templates are refused.
    #[arg(short, value_name = "FORMAT", hide = true, value_parser = output::FormatParser)]
    format: Option<output::Format>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// Names of one kind
#[derive(Args, Debug)]
pub(crate) struct NamesArgs {
    // Docker's short name of `--format`. It prints documents in any case, and templates are refused.
    #[arg(short, value_name = "FORMAT", hide = true, value_parser = output::FormatParser)]
    format: Option<output::Format>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// What can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    // A container
    Container,
    // An image
    Image,
    // A network
    Network,
    // A volume
    Volume,
}

impl Kind {
    fn request(self, name: &str, size: bool) -> Request {
        let name = segment(name);
        match self {
            Kind::Container => Request::get(format!("/containers/{name}/json")).flag("size", size),
            Kind::Image => Request::get(format!("/images/{name}/json")),
            Kind::Network => Request::get(format!("/networks/{name}")),
            Kind::Volume => Request::get(format!("/volumes/{name}")),
        }
    }
}

/// `stratus inspect`
pub(super) async fn inspect(context: &Context, args: InspectArgs) -> Result<ExitCode> {
    let kinds = match args.kind {
        Some(kind) => vec![kind],
        None => Kind::value_variants().to_vec(),
    };
    documents(&context.daemon, &args.names, &kinds, args.size).await
}

/// `stratus image inspect` and its like
pub(super) async fn of_kind(context: &Context, args: NamesArgs, kind: Kind) -> Result<ExitCode> {
    documents(&context.daemon, &args.names, &[kind], false).await
}

/// Prints the documents of all that are there; the others are told.
async fn documents(daemon: &Daemon, names: &[String], kinds: &[Kind], size: bool) -> Result<ExitCode> {
    let (mut found, mut outcome) = (Vec::new(), ExitCode::SUCCESS);
    for name in names {
        match first(daemon, name, kinds, size).await {
            Ok(document) => found.push(document),
            Err(error) => {
                output::error(&error);
                outcome = error.exit_code();
            }
        }
    }
    output::line(indented(&format!("[{}]", found.join(","))))?;
    Ok(outcome)
}

/// The first kind's that has such a name.
async fn first(daemon: &Daemon, name: &str, kinds: &[Kind], size: bool) -> Result<String> {
    for kind in kinds {
        match daemon.text(kind.request(name, size)).await {
            Err(error) if error.is_not_found() && kinds.len() > 1 => {}
            outcome => return outcome,
        }
    }
    Err(Error::Failed(format!("no container, image, network or volume is called {name}")))
}

/// A document with a line for each of its fields, which keep the order that the daemon wrote them in. People read it
/// in that order; a map of names to values would have another.
fn indented(document: &str) -> String {
    let mut text = String::with_capacity(document.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = document.chars().filter(|c| !matches!(c, '\n' | '\r')).peekable();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("    ", depth));
    };
    while let Some(character) = characters.next() {
        if in_string {
            text.push(character);
            (in_string, escaped) = (escaped || character != '"', !escaped && character == '\\');
            continue;
        }
        match character {
            ' ' | '\t' => {}
            '{' | '[' => {
                text.push(character);
                while characters.next_if(|next| matches!(next, ' ' | '\t')).is_some() {}
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => text.push(end),
                    None => {
                        depth += 1;
                        line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(character);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            other => {
                in_string = other == '"';
                text.push(other);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let document = r#"[{"b":1,"a":[],"c":{ },"d":["x{\"y\\",null]}]"#;
        let expected = "[\n    {\n        \"b\": 1,\n        \"a\": [],\n        \"c\": {},\n        \"d\": [\n            \
                        \"x{\\\"y\\\\\",\n            null\n        ]\n    }\n]";
        assert_eq!(indented(document), expected);
    }

    #[test]
    fn nothing_of_a_document_is_lost() {
        let document = serde_json::json!([{ "a": "b: c, d \u{e9} \n", "e": [[], [1.5, true]], "": {} }]);
        let read: serde_json::Value = serde_json::from_str(&indented(&document.to_string())).expect("JSON");
        assert_eq!(read, document);
    }
}
