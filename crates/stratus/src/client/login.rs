//! `stratus login`, `stratus logout`

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::Args;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::attach::asked_to_end;
use super::credentials::{self, Kept, Secret};
use super::error::{Error, Result};
use super::output::{self, Format};
use super::request::Request;
use super::terminal::Hidden;
use super::transfer::blocking;

/// Have a registry let this user in, and remember that
#[derive(Args)]
pub(crate) struct LoginArgs {
    /// User's name there
    #[arg(long, short, value_name = "NAME")]
    username: Option<String>,
    /// Password or token; everybody on this machine can see it
    #[arg(long, short, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Registry, HOST[:PORT] [default: Docker Hub]
    server: Option<String>,
}

/// Forget what a registry lets this user in for
#[derive(Args)]
pub(crate) struct LogoutArgs {
    /// Registry, HOST[:PORT] [default: Docker Hub]
    server: Option<String>,
}

/// Who wants to be let in.
struct User {
    name: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    identity_token: String,
    #[serde(default)]
    status: String,
}

/// `stratus login`
pub(super) async fn login(context: &Context, args: LoginArgs) -> Result<ExitCode> {
    let server = credentials::server(args.server.as_deref());
    if args.password.is_some() {
        output::warning("a password on the command line is seen by everybody on this machine: give --password-stdin");
    }
    // What was kept before may still be good.
    if args.username.is_none()
        && args.password.is_none()
        && let Some(known) = credentials::document(&server)?
    {
        match ask(context, &known).await {
            Ok(answer) => return said(context, &answer.status, None),
            Err(Error::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let user = User::new(args, &server).await?;
    let document = json!({ "username": user.name, "password": user.password, "serveraddress": server });
    let answer = ask(context, &document).await?;
    let secret = match answer.identity_token {
        token if !token.is_empty() => Secret::Token(token),
        _ => Secret::Password(user.password),
    };
    let kept = credentials::keep(&server, &user.name, &secret)?;
    said(context, &answer.status, Some(&kept))
}

/// Has the daemon ask the registry.
async fn ask(context: &Context, document: &Value) -> Result<Answer> {
    context.daemon.read(Request::post("/auth").json(document)).await
}

fn said(context: &Context, status: &str, kept: Option<&Kept>) -> Result<ExitCode> {
    if let Some(Kept::InFile(path)) = kept {
        output::warning(&format!(
            "the password is kept as it is in {}: a credential helper keeps it safer (\"credsStore\" in there)",
            path.display()
        ));
    }
    match context.format {
        Format::Json => output::document(&json!({ "Status": status }))?,
        Format::Table => output::line(status)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl User {
    /// Takes what was given, and asks at the terminal for what was not.
    async fn new(args: LoginArgs, server: &str) -> Result<User> {
        let asked = |given: bool| match given || io::stdin().is_terminal() {
            true => Ok(()),
            false => Err(Error::Usage("there is no terminal to ask at: give --username and --password-stdin".into())),
        };
        let given = args.username.filter(|name| !name.is_empty());
        asked(given.is_some())?;
        let name = match given {
            Some(name) => name,
            None => typed(format!("User's name at {server}: ")).await?,
        };
        asked(args.password.is_some() || args.password_stdin)?;
        let password = match args.password {
            Some(password) => password,
            None if args.password_stdin => piped().await?,
            None => {
                let hidden = Hidden::enter().map_err(Error::io("hiding what is typed"))?;
                let password = typed("Password: ".to_owned()).await;
                drop(hidden);
                password?
            }
        };
        match (name.is_empty(), password.is_empty()) {
            (true, _) => Err(Error::Usage("a registry wants to know who comes: give --username".into())),
            (_, true) => Err(Error::Usage("the password is empty".into())),
            _ => Ok(User { name, password }),
        }
    }
}

/// What somebody types at the terminal, who may as well end the command.
async fn typed(question: String) -> Result<String> {
    let prompt = move || {
        let (mut terminal, mut answer) = (io::stderr(), String::new());
        terminal.write_all(question.as_bytes()).and_then(|()| terminal.flush()).map_err(output::written)?;
        io::stdin().lock().read_line(&mut answer).map_err(Error::io("reading the answer"))?;
        Ok(answer)
    };
    let answer = tokio::select! {
        answer = blocking(prompt) => answer?,
        signal = asked_to_end() => return Err(Error::Signal(signal?)),
    };
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

/// All of standard input.
async fn piped() -> Result<String> {
    let text = blocking(|| {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(Error::io("reading the password"))?;
        Ok(text)
    });
    Ok(text.await?.trim_end_matches(['\n', '\r']).to_owned())
}

/// `stratus logout`
pub(super) fn logout(context: &Context, args: &LogoutArgs) -> Result<ExitCode> {
    let server = credentials::server(args.server.as_deref());
    let known = credentials::forget(&server)?;
    let words = match known {
        true => format!("Removed what was known of {server}"),
        false => format!("Nothing was known of {server}"),
    };
    match context.format {
        Format::Json => output::document(&json!({ "Server": server, "Removed": known }))?,
        Format::Table => output::line(words)?,
    }
    Ok(ExitCode::SUCCESS)
}
