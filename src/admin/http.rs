//! The admin port: metrics, health and a dashboard over HTTP, on a thread with a runtime of its own.
//!
//! axum and tokio, because none of this is on the way of a message and both are kept by many hands.
//! Whoever floods this port slows this thread down and no shard.

#![forbid(unsafe_code)]

use super::api::{self, Since};
use super::metrics_text;
use super::token::{Token, is_shown};
use super::watch::Watch;
use crate::config::AdminOptions;
use crate::runtime::step_back;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Connections at a time. For one more, the one that has asked for nothing for the longest time is let go: it takes
/// no time to answer, so who keeps a place only keeps others out, such as a probe of health.
const CONNECTIONS_MAX: usize = 64;
/// Longest time from the beginning of a connection to the end of a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A connection is asked to end after so long.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// And is cut off so much later, whatever it has not read.
const CONNECTION_GRACE: Duration = Duration::from_secs(5);
/// Largest head of a request.
const HEAD_SIZE_MAX: usize = 16 * 1024;

/// The dashboard: one page that needs nothing but this port.
const DASHBOARD: &str = include_str!("dashboard.html");
/// It has no parts elsewhere, and nobody may show it inside of a page of theirs.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// The admin port, open.
#[derive(Clone, Debug)]
pub struct AdminPort {
    address: SocketAddr,
    guard: Arc<Guard>,
}

impl AdminPort {
    /// Serves what `watch` sees, on `listener`.
    ///
    /// # Errors
    /// When other machines reach the address and there is no token, or when there can be no thread or
    /// no runtime on it.
    pub fn start(listener: TcpListener, token: Token, watch: Watch) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let is_local = address.ip().to_canonical().is_loopback();
        if token.is_none() && !is_local {
            let text = format!(
                "other machines reach the admin port at {address}, which needs a token \
                 (fastmq_admin_token_file)"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        listener.set_nonblocking(true)?;
        let guard = Arc::new(Guard {
            token: RwLock::new(token),
            is_local,
        });
        let app = app(watch, guard.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("fastmq-admin".into())
            .spawn(move || {
                step_back();
                runtime.block_on(serve(listener, app));
            })?;
        Ok(Self { address, guard })
    }

    /// Where it listens, with the port that was chosen if port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token was read again. Without one, nobody is let in from other machines.
    pub fn set_token(&self, token: Token) {
        let current = self.guard.token.write();
        *current.unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// Who is let in.
#[derive(Debug)]
struct Guard {
    token: RwLock<Token>,
    /// Only this machine reaches the port.
    is_local: bool,
}

impl Guard {
    fn read<T>(&self, read: impl FnOnce(Option<&str>) -> T) -> T {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        read(token.as_deref())
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION);
        self.read(|token| match token {
            Some(token) => shown.is_some_and(|shown| is_shown(token, shown.as_bytes())),
            None => self.is_local,
        })
    }

    /// Without a token nothing but its address protects the port. A page of somebody else could have
    /// its own name resolve to that address, and read through the operator's browser: so that name is
    /// not answered to.
    fn answers_to(&self, headers: &HeaderMap) -> bool {
        self.read(|token| token.is_some()) || is_plain_host(headers)
    }
}

/// Opens the port that `options` ask for.
///
/// # Errors
/// What the system says.
pub fn listen(options: &AdminOptions) -> io::Result<Option<TcpListener>> {
    options.listener.map(TcpListener::bind).transpose()
}

fn app(watch: Watch, guard: Arc<Guard>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .route("/api/history", get(history))
        .with_state(watch.clone())
        .layer(middleware::from_fn_with_state(guard.clone(), demand_token));
    // Health is for machines that have no secrets, and tells none. The page holds no numbers: it asks
    // for the token, and then for them.
    Router::new()
        .route("/", get(async || Html(DASHBOARD)))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(watch)
        .merge(guarded)
        .layer(middleware::from_fn_with_state(guard, harden))
}

async fn serve(listener: TcpListener, app: Router) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("the admin port does not work: {error}");
            return;
        }
    };
    let mut visits: Vec<Visit> = Vec::new();
    let requests = Arc::new(AtomicU64::new(0));
    let mut is_said = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => {
                is_said = false;
                stream
            }
            Err(error) => {
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!("the admin port accepts nothing for now: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if visits.len() >= CONNECTIONS_MAX {
            visits.retain(|visit| !visit.task.is_finished());
        }
        if visits.len() >= CONNECTIONS_MAX
            && let Some(idle) =
                (0..visits.len()).min_by_key(|&index| visits[index].last_request.get())
        {
            visits.swap_remove(idle).task.abort();
        }
        let last_request = LastRequest::new(requests.clone());
        let connection = serve_connection(stream, app.clone(), last_request.clone());
        visits.push(Visit {
            last_request,
            task: tokio::spawn(connection),
        });
    }
}

/// A connection that is served.
#[derive(Debug)]
struct Visit {
    last_request: LastRequest,
    task: JoinHandle<()>,
}

/// When a connection has asked for something, or begun, in the order of all that does.
#[derive(Clone, Debug)]
struct LastRequest {
    all: Arc<AtomicU64>,
    own: Arc<AtomicU64>,
}

impl LastRequest {
    fn new(all: Arc<AtomicU64>) -> Self {
        let begun = Self {
            all,
            own: Arc::default(),
        };
        begun.set();
        begun
    }

    // All of it is on one thread.
    fn set(&self) {
        let number = self.all.fetch_add(1, Ordering::Relaxed);
        self.own.store(number, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

async fn serve_connection(stream: TcpStream, app: Router, last_request: LastRequest) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |request| {
        last_request.set();
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Whoever breaks off is nobody's error.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(CONNECTION_MAX) => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(CONNECTION_GRACE, connection).await;
}

/// Lets through who shows the token, as `Authorization: Bearer TOKEN`.
async fn demand_token(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if guard.admits(request.headers()) {
        return next.run(request).await;
    }
    let demand = [(header::WWW_AUTHENTICATE, "Bearer realm=\"fastmq\"")];
    (StatusCode::UNAUTHORIZED, demand, "a token is needed\n").into_response()
}

/// What all answers have in common.
async fn harden(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = if guard.answers_to(request.headers()) {
        next.run(request).await
    } else {
        let why = "without a token, only localhost or an address may be asked for\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let no_referrer = HeaderValue::from_static("no-referrer");
    headers.insert(header::REFERRER_POLICY, no_referrer);
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}

/// Whether the request names this machine in a way that nobody else can give a meaning to.
fn is_plain_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        // HTTP/1.0, which no browser speaks.
        return true;
    };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

async fn metrics(State(watch): State<Watch>) -> Response {
    let picture = watch.read(|seen| seen.picture.clone());
    match metrics_text::encode(picture) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics_text::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether all shards answer: a supervisor restarts what is not healthy.
async fn healthz(State(watch): State<Watch>) -> Response {
    match watch.hanging_still().await {
        Some(hanging) if hanging.is_empty() => "ok\n".into_response(),
        Some(hanging) => {
            let text = format!("shards that do not answer: {hanging:?}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "nobody looks\n").into_response(),
    }
}

/// Whether clients may be sent here.
async fn readyz(State(watch): State<Watch>) -> Response {
    if watch.is_ready() {
        healthz(State(watch)).await
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn status(State(watch): State<Watch>) -> Json<serde_json::Value> {
    Json(api::status(&watch))
}

async fn history(
    State(watch): State<Watch>,
    Query(since): Query<Since>,
) -> Json<serde_json::Value> {
    Json(api::history(&watch, since))
}
