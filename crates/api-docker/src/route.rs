//! Which handler answers which path.
//!
//! Names in paths may contain slashes (images do), so a route is a text with at most one place for a name, and the
//! name takes as much as it can; of several routes that match, the first in the table counts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tokio_util::sync::CancellationToken;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::hijack::{Client, Hijacker};
use crate::query::{self, Query};
use crate::version::{self, ApiVersion, MAX_API_VERSION};
use crate::{
    Door, build, containers, events, images, microvms, networks, snapshots, swarm, system, upgrade, usage, volumes,
};

type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

struct Route {
    method: Method,
    /// `{}` stands for the name.
    pattern: &'static str,
    handler: Handler,
}

macro_rules! routes {
    ($($method:ident $pattern:literal => $handler:path;)*) => {
        &[$(Route { method: Method::$method, pattern: $pattern, handler: |call| Box::pin($handler(call)) },)*]
    };
}

static ROUTES: &[Route] = routes! {
    GET "/_ping" => system::ping;
    HEAD "/_ping" => system::ping;
    GET "/version" => system::version;
    GET "/info" => system::info;
    GET "/events" => events::events;
    GET "/system/df" => system::disk_usage;
    POST "/auth" => system::auth;
    // Not Docker's: what ran, and what it used.
    GET "/stratus/usage" => usage::usage;
    // Nor are these: the packages of an image, and what is said of it.
    GET "/stratus/images/{}/packages" => images::inspect::packages;
    GET "/stratus/images/{}/attestations" => images::attestations::attestations;
    DELETE "/stratus/images/{}/attestations" => images::attestations::remove;
    // And what only a container with a kernel of its own can do.
    GET "/stratus/containers/{}/snapshots" => snapshots::list;
    POST "/stratus/containers/{}/snapshots" => snapshots::create;
    DELETE "/stratus/containers/{}/snapshots" => snapshots::remove;
    POST "/stratus/containers/{}/rollback" => snapshots::rollback;
    POST "/stratus/containers/{}/suspend" => snapshots::suspend;
    POST "/stratus/containers/{}/resume" => snapshots::resume;
    POST "/stratus/containers/{}/fork" => snapshots::fork;
    GET "/stratus/microvms/images" => microvms::images;
    POST "/stratus/microvms/images" => microvms::build;
    DELETE "/stratus/microvms/images/{}" => microvms::remove_image;
    GET "/stratus/microvms" => microvms::list;
    POST "/stratus/microvms" => microvms::run;
    GET "/stratus/microvms/{}" => microvms::inspect;
    POST "/stratus/microvms/{}/token" => microvms::token;
    DELETE "/stratus/microvms/{}/token" => microvms::take_tokens_back;
    POST "/stratus/microvms/{}/suspend" => microvms::suspend;
    POST "/stratus/microvms/{}/resume" => microvms::resume;
    DELETE "/stratus/microvms/{}" => microvms::terminate;

    HEAD "/containers/{}/archive" => containers::archive::stat;
    GET "/containers/json" => containers::list::list;
    GET "/containers/{}/export" => containers::archive::export;
    GET "/containers/{}/changes" => containers::archive::changes;
    GET "/containers/{}/json" => containers::inspect::inspect;
    GET "/containers/{}/top" => containers::life::top;
    GET "/containers/{}/logs" => containers::logs::logs;
    GET "/containers/{}/stats" => containers::stats::stats;
    GET "/containers/{}/attach/ws" => containers::websocket::attach;
    GET "/containers/{}/checkpoints" => containers::no_checkpoints;
    GET "/exec/{}/json" => containers::exec::inspect;
    GET "/containers/{}/archive" => containers::archive::get;
    POST "/containers/create" => containers::create::create;
    POST "/containers/prune" => containers::life::prune;
    POST "/containers/{}/kill" => containers::life::kill;
    POST "/containers/{}/pause" => containers::life::pause;
    POST "/containers/{}/unpause" => containers::life::unpause;
    POST "/containers/{}/restart" => containers::life::restart;
    POST "/containers/{}/start" => containers::life::start;
    POST "/containers/{}/stop" => containers::life::stop;
    POST "/containers/{}/wait" => containers::life::wait;
    POST "/containers/{}/resize" => containers::life::resize;
    POST "/containers/{}/attach" => containers::attach::attach;
    POST "/containers/{}/checkpoints" => containers::no_checkpoints;
    POST "/containers/{}/exec" => containers::exec::create;
    POST "/exec/{}/start" => containers::exec::start;
    POST "/exec/{}/resize" => containers::exec::resize;
    POST "/containers/{}/rename" => containers::life::rename;
    POST "/containers/{}/update" => containers::update::update;
    POST "/commit" => containers::commit::commit;
    PUT "/containers/{}/archive" => containers::archive::put;
    DELETE "/containers/{}/checkpoints/{}" => containers::no_checkpoints;
    DELETE "/containers/{}" => containers::life::remove;

    GET "/images/json" => images::list::list;
    GET "/images/search" => images::registry::search;
    GET "/images/get" => images::archive::save_many;
    GET "/images/{}/get" => images::archive::save_one;
    GET "/images/{}/history" => images::inspect::history;
    GET "/images/{}/json" => images::inspect::inspect;
    POST "/images/load" => images::archive::load;
    POST "/images/create" => images::registry::create;
    POST "/images/prune" => images::remove::prune;
    POST "/images/{}/push" => images::registry::push;
    POST "/images/{}/tag" => images::remove::tag;
    DELETE "/images/{}" => images::remove::remove;
    GET "/distribution/{}/json" => images::registry::distribution;

    GET "/networks" => networks::list;
    GET "/networks/" => networks::list;
    GET "/networks/{}" => networks::inspect;
    POST "/networks/create" => networks::create;
    POST "/networks/prune" => networks::prune;
    POST "/networks/{}/connect" => networks::connect;
    POST "/networks/{}/disconnect" => networks::disconnect;
    DELETE "/networks/{}" => networks::remove;

    GET "/volumes" => volumes::list;
    GET "/volumes/{}" => volumes::inspect;
    POST "/volumes/create" => volumes::create;
    POST "/volumes/prune" => volumes::prune;
    PUT "/volumes/{}" => swarm::not_a_manager;
    DELETE "/volumes/{}" => volumes::remove;

    POST "/build" => build::build;
    POST "/build/prune" => build::cache::prune;
    POST "/build/cancel" => build::cancel;
    POST "/session" => build::session;

    GET "/plugins" => swarm::plugins;
    GET "/plugins/privileges" => swarm::no_plugins;
    GET "/plugins/{}/json" => swarm::no_such_plugin;
    POST "/plugins/pull" => swarm::no_plugins;
    POST "/plugins/create" => swarm::no_plugins;
    POST "/plugins/{}/enable" => swarm::no_such_plugin;
    POST "/plugins/{}/disable" => swarm::no_such_plugin;
    POST "/plugins/{}/push" => swarm::no_such_plugin;
    POST "/plugins/{}/upgrade" => swarm::no_such_plugin;
    POST "/plugins/{}/set" => swarm::no_such_plugin;
    DELETE "/plugins/{}" => swarm::no_such_plugin;

    POST "/swarm/init" => swarm::no_swarm;
    POST "/swarm/join" => swarm::no_swarm;
    POST "/swarm/leave" => swarm::not_a_member;
    POST "/swarm/unlock" => swarm::not_a_member;
    GET "/swarm" => swarm::not_a_manager;
    GET "/swarm/unlockkey" => swarm::not_a_manager;
    POST "/swarm/update" => swarm::not_a_manager;
    GET "/services" => swarm::not_a_manager;
    GET "/services/{}" => swarm::not_a_manager;
    POST "/services/create" => swarm::not_a_manager;
    POST "/services/{}/update" => swarm::not_a_manager;
    DELETE "/services/{}" => swarm::not_a_manager;
    GET "/services/{}/logs" => swarm::not_a_manager;
    GET "/nodes" => swarm::not_a_manager;
    GET "/nodes/{}" => swarm::not_a_manager;
    DELETE "/nodes/{}" => swarm::not_a_manager;
    POST "/nodes/{}/update" => swarm::not_a_manager;
    GET "/tasks" => swarm::not_a_manager;
    GET "/tasks/{}" => swarm::not_a_manager;
    GET "/tasks/{}/logs" => swarm::not_a_manager;
    GET "/secrets" => swarm::not_a_manager;
    GET "/secrets/{}" => swarm::not_a_manager;
    POST "/secrets/create" => swarm::not_a_manager;
    POST "/secrets/{}/update" => swarm::not_a_manager;
    DELETE "/secrets/{}" => swarm::not_a_manager;
    GET "/configs" => swarm::not_a_manager;
    GET "/configs/{}" => swarm::not_a_manager;
    POST "/configs/create" => swarm::not_a_manager;
    POST "/configs/{}/update" => swarm::not_a_manager;
    DELETE "/configs/{}" => swarm::not_a_manager;
};

/// Calls that end with their client: streams, and transfers that can be taken up again. Every other call that changes
/// something goes on to its end, also when its client is gone: half a start or half a removal helps nobody.
const WITH_CLIENT: [&str; 7] = [
    "/containers/{}/attach",
    "/containers/{}/wait",
    "/exec/{}/start",
    "/images/create",
    "/images/load",
    "/images/{}/push",
    "/stratus/microvms/images",
];

impl Route {
    fn ends_with_client(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD) || WITH_CLIENT.contains(&self.pattern)
    }
}

/// Answers a request.
pub(crate) async fn dispatch(
    door: Arc<Door>,
    request: Request<Incoming>,
    client: Client,
    hijacker: Hijacker,
    shutdown: CancellationToken,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let path = decode_path(parts.uri.path())?;
    if let Some(clean) = cleaned(&path) {
        return redirect(&clean, parts.uri.query());
    }
    let (version, path) = version::split_prefix(&path);
    if let Some(protocol) = door.protocols.iter().find(|protocol| protocol.path == path) {
        return upgrade::upgrade(Arc::clone(protocol), &parts, &hijacker, shutdown).await;
    }
    let (route, name) = find(&parts.method, path).ok_or_else(ApiError::page_not_found)?;
    let version = version.map_or(Ok(MAX_API_VERSION), ApiVersion::negotiate)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let name = name.to_owned();
    let answer = (route.handler)(Call { door, version, name, query, parts, body, hijacker, shutdown });
    let response = if route.ends_with_client() {
        tokio::select! {
            biased;
            response = answer => response,
            // Nobody reads what is said then.
            () = client.clone().gone() => Err(ApiError::bad_request("the client is gone")),
        }
    } else {
        let failed = |error| ApiError::internal(format!("the request was given up: {error}"));
        tokio::spawn(answer).await.unwrap_or_else(|error| Err(failed(error)))
    };
    Ok(response?.map(|body| body.until(client.gone())))
}

/// The route that a path takes, and the name in it.
fn find<'p>(method: &Method, path: &'p str) -> Option<(&'static Route, &'p str)> {
    ROUTES.iter().filter(|route| route.method == *method).find_map(|route| Some((route, matched(route.pattern, path)?)))
}

/// The name that `path` has where `pattern` has its (first) place, if the rest is equal.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = pattern.split_once("{}") else { return (path == pattern).then_some("") };
    let rest = path.strip_prefix(before)?;
    let name = match after.strip_suffix("{}") {
        Some(between) => rest.split_once(between).filter(|(_, last)| !last.is_empty())?.0,
        None => rest.strip_suffix(after)?,
    };
    (!name.is_empty()).then_some(name)
}

fn decode_path(path: &str) -> Result<String> {
    query::check_escapes(path)?;
    let decoded = percent_decode_str(path).decode_utf8();
    decoded.map(|path| path.into_owned()).map_err(|_| ApiError::bad_request("the path is not UTF-8"))
}

/// The path without empty, `.` and `..` components; `None` where it has none.
fn cleaned(path: &str) -> Option<String> {
    let mut clean: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    let slash = if path.ends_with('/') && !clean.is_empty() { "/" } else { "" };
    let clean = format!("/{}{slash}", clean.join("/"));
    (clean != path).then_some(clean)
}

fn redirect(path: &str, query: Option<&str>) -> Result<Response> {
    let path = percent_encoding::utf8_percent_encode(path, percent_encoding::CONTROLS).to_string();
    let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let mut response = body::empty(StatusCode::MOVED_PERMANENTLY);
    let target = HeaderValue::from_str(&target).map_err(|_| ApiError::page_not_found())?;
    response.headers_mut().insert(header::LOCATION, target);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(method: Method, path: &str) -> Option<(&'static str, &str)> {
        find(&method, path).map(|(route, name)| (route.pattern, name))
    }

    #[test]
    fn fixed_words_win_over_names() {
        assert_eq!(at(Method::GET, "/containers/json"), Some(("/containers/json", "")));
        assert_eq!(at(Method::GET, "/images/get"), Some(("/images/get", "")));
        assert_eq!(at(Method::POST, "/networks/prune"), Some(("/networks/prune", "")));
    }

    #[test]
    fn names_may_have_slashes() {
        let image = "localhost:5000/team/app:1";
        for (end, pattern) in
            [("json", "/images/{}/json"), ("history", "/images/{}/history"), ("get", "/images/{}/get")]
        {
            assert_eq!(at(Method::GET, &format!("/images/{image}/{end}")), Some((pattern, image)));
        }
        assert_eq!(at(Method::DELETE, &format!("/images/{image}")), Some(("/images/{}", image)));
        assert_eq!(at(Method::GET, "/containers/web/attach/ws"), Some(("/containers/{}/attach/ws", "web")));
    }

    #[test]
    fn a_path_may_have_two_names() {
        let pattern = "/containers/{}/checkpoints/{}";
        assert_eq!(at(Method::DELETE, "/containers/web/checkpoints/one"), Some((pattern, "web")));
        assert_eq!(at(Method::DELETE, "/containers/web"), Some(("/containers/{}", "web")));
    }

    #[test]
    fn another_method_is_no_route() {
        assert!(at(Method::GET, "/containers/create").is_none());
        assert!(at(Method::PATCH, "/info").is_none());
        assert!(at(Method::GET, "/nonsense").is_none());
    }

    #[test]
    fn what_changes_something_outlives_its_client() {
        let ends = |method, path: &str| find(&method, path).map(|(route, _)| route.ends_with_client());
        assert_eq!(ends(Method::POST, "/containers/web/start"), Some(false));
        assert_eq!(ends(Method::DELETE, "/containers/web"), Some(false));
        assert_eq!(ends(Method::POST, "/containers/web/attach"), Some(true));
        assert_eq!(ends(Method::GET, "/events"), Some(true));
        let known = |pattern: &&str| ROUTES.iter().any(|route| route.pattern == *pattern);
        assert!(WITH_CLIENT.iter().all(known));
    }

    #[test]
    fn unclean_paths_are_cleaned() {
        assert_eq!(cleaned("//containers/../images//json").as_deref(), Some("/images/json"));
        assert_eq!(cleaned("/networks/"), None);
        assert_eq!(cleaned("/info"), None);
        assert_eq!(cleaned("/"), None);
    }

    proptest! {
        #[test]
        fn any_path_is_routed_or_not(path in "(/[a-z{}.%]{0,6}){0,6}|.*") {
            let _ = decode_path(&path).map(|path| (cleaned(&path), find(&Method::GET, &path).is_some()));
        }

        #[test]
        fn a_clean_path_stays_as_it_is(path in "(/[a-z.]{0,3}){1,6}") {
            let clean = cleaned(&path).unwrap_or(path);
            prop_assert_eq!(cleaned(&clean), None);
        }
    }
}
