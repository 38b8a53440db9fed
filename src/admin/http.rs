//! The admin port: metrics, health and a dashboard over HTTP, on a thread with a runtime of its own.
//!
//! axum and tokio, because none of this is on the way of a message and both are kept by many hands.
//! Whoever floods this port slows this thread down and no shard.

#![forbid(unsafe_code)]

use super::metrics_text;
use super::watch::{Second, Watch};
use crate::config::AdminOptions;
use crate::metrics::{TURN_BUCKETS, Turns};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Connections served at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Longest time from the beginning of a connection to the end of a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Longest life of a connection.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// Largest head of a request.
const HEAD_SIZE_MAX: usize = 16 * 1024;

/// The dashboard: one page that needs nothing but this port.
const DASHBOARD: &str = include_str!("dashboard.html");

/// What nobody but the operator may see, if there is a token.
pub type Token = Option<Box<str>>;

/// The admin port, open.
#[derive(Clone, Debug)]
pub struct AdminPort {
    address: SocketAddr,
    token: Arc<RwLock<Token>>,
}

impl AdminPort {
    /// Serves what `watch` sees, on `listener`.
    ///
    /// # Errors
    /// When there can be no thread, or no runtime on it.
    pub fn start(listener: TcpListener, token: Token, watch: Watch) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let token = Arc::new(RwLock::new(token));
        let app = app(watch, token.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("fastmq-admin".into())
            .spawn(move || runtime.block_on(serve(listener, app)))?;
        Ok(Self { address, token })
    }

    /// Where it listens, with the port that was chosen if port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token was read again.
    pub fn set_token(&self, token: Token) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// Opens the port that `options` ask for.
///
/// # Errors
/// What the system says.
pub fn listen(options: &AdminOptions) -> io::Result<Option<TcpListener>> {
    options.listener.map(TcpListener::bind).transpose()
}

fn app(watch: Watch, token: Arc<RwLock<Token>>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/state", get(state))
        .with_state(watch.clone())
        .layer(middleware::from_fn_with_state(token, demand_token));
    // Health is for machines that have no secrets, and tells none.
    Router::new()
        .route("/", get(dashboard))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(watch)
        .merge(guarded)
}

async fn serve(listener: TcpListener, app: Router) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("the admin port does not work: {error}");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the admin port accepts nothing for a moment: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .max_buf_size(HEAD_SIZE_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever breaks off is nobody's error.
            let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
            drop(place);
        });
    }
}

/// Lets through who shows the token, as `Authorization: Bearer TOKEN`.
async fn demand_token(
    State(token): State<Arc<RwLock<Token>>>,
    request: Request,
    next: Next,
) -> Response {
    let is_admitted = {
        let token = token.read().unwrap_or_else(PoisonError::into_inner);
        token.as_deref().is_none_or(|token| {
            let shown = request.headers().get(header::AUTHORIZATION);
            let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
            shown.is_some_and(|shown| shown.ct_eq(token.as_bytes()).into())
        })
    };
    if is_admitted {
        next.run(request).await
    } else {
        let demand = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
        (StatusCode::UNAUTHORIZED, demand, "a token is needed\n").into_response()
    }
}

async fn dashboard() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:";
    (
        [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::CACHE_CONTROL, "no-store"),
        ],
        DASHBOARD,
    )
        .into_response()
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
    match watch.hanging() {
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
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

#[derive(Debug, serde::Deserialize)]
struct Since {
    /// The `looks` of the answer before; seconds up to it are not wanted again.
    #[serde(default)]
    since: u64,
}

/// What the dashboard shows. Times are seconds, sizes bytes, rates per second.
#[derive(Debug, serde::Serialize)]
struct Shown {
    version: &'static str,
    looks: u64,
    uptime: u64,
    memory: Option<u64>,
    memory_maximum: Option<u64>,
    history: Vec<Second>,
    shards: Vec<ShownShard>,
    total: ShownShard,
    /// Upper bounds of the histogram of turns; the last bucket has none.
    turn_bounds: Vec<Option<f64>>,
    log_lines_dropped: u64,
}

#[derive(Debug, serde::Serialize)]
struct ShownShard {
    busy: f64,
    hangs: bool,
    connections: u64,
    clients: u64,
    sessions: u64,
    subscriptions: u64,
    retained: u64,
    queued: u64,
    queued_bytes: u64,
    received: u64,
    sent: u64,
    dropped: u64,
    turns: [u64; TURN_BUCKETS],
}

impl ShownShard {
    fn of(snapshot: &crate::metrics::Snapshot, busy: f64, hangs: bool) -> Self {
        let (counters, gauges) = (&snapshot.counters, &snapshot.gauges);
        Self {
            busy,
            hangs,
            connections: gauges.connections,
            clients: gauges.clients_connected,
            sessions: gauges.sessions,
            subscriptions: gauges.subscriptions,
            retained: gauges.retained_messages,
            queued: gauges.queued_messages,
            queued_bytes: gauges.queued_bytes,
            received: counters.publish_received,
            sent: counters.publish_sent,
            dropped: counters.dropped(),
            turns: snapshot.turns.buckets,
        }
    }
}

async fn state(State(watch): State<Watch>, Query(Since { since }): Query<Since>) -> Json<Shown> {
    Json(watch.read(|seen| {
        let picture = &seen.picture;
        let hanging = picture.hanging();
        let shards = picture.shards.iter().enumerate();
        let shards: Vec<_> = shards
            .map(|(index, it)| {
                ShownShard::of(&it.snapshot, it.busy_share, hanging.contains(&index))
            })
            .collect();
        let busy = shards.iter().map(|shard| shard.busy).sum();
        let new = usize::try_from(seen.looks.saturating_sub(since)).unwrap_or(usize::MAX);
        let old = seen.history.len().saturating_sub(new);
        Shown {
            version: env!("CARGO_PKG_VERSION"),
            looks: seen.looks,
            uptime: picture.uptime.as_secs(),
            memory: picture.memory.map(|(current, _)| current),
            memory_maximum: picture.memory.map(|(_, maximum)| maximum),
            history: seen.history.iter().skip(old).cloned().collect(),
            total: ShownShard::of(&picture.total, busy, !hanging.is_empty()),
            shards,
            turn_bounds: (0..TURN_BUCKETS)
                .map(|index| Turns::upper_bound(index).map(|bound| bound.as_secs_f64()))
                .collect(),
            log_lines_dropped: picture.log.dropped + picture.log.lost + picture.log_events_dropped,
        }
    }))
}
