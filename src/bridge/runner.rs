//! The thread of a bridge: one connection after the other, with pauses between them.

#![forbid(unsafe_code)]

use super::control::{Asked, Control, Handle, control};
use super::numbers::{BridgeNumbers, BridgeTable};
use super::options::{LocalLimits, Names, RemoteOptions, notification_topic};
use super::presence;
use super::probe::Probe;
use super::relay::{Event, Orphans, Relay};
use super::topics::{Topics, Way};
use super::visit::{End, Visit};
use crate::clients::{Endpoint, Link, Target, TlsSettings, client_config_with, wait};
use crate::config::{Bridge, RestartTimeout, StartType, TlsVersion};
use crate::message::QoS;
use crate::net::tls::{CipherLists, provider};
use crate::origin::ListenerId;
use crate::policy::Policy;
use crate::runtime::{Beside, Mailbox};
use crate::shown::shown;
use rustix::event::{PollFd, PollFlags};
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the threads of bridges may take to say goodbye when the broker ends.
const STOP_PATIENCE: Duration = Duration::from_millis(1500);
/// How often such a thread is looked after.
const STOP_STEP: Duration = Duration::from_millis(5);
/// How often it is seen to whether a bridge that was ended has left.
const LEFT_STEP: Duration = Duration::from_millis(10);
/// How often messages that are not passed on are told of.
const DROPPED_EVERY: Duration = Duration::from_secs(10);

/// A bridge with all that its files say.
#[derive(Debug)]
pub struct PreparedBridge {
    bridge: Bridge,
    tls: Option<Arc<ClientConfig>>,
}

impl PreparedBridge {
    /// Reads the files of a bridge. `warnings` hears what is legal but hardly meant.
    ///
    /// # Errors
    /// One that cannot be read or holds nothing of use, or cipher suites that there are not.
    pub fn new(bridge: &Bridge, warnings: &mut Vec<String>) -> Result<Self, String> {
        let tls = bridge.tls.as_ref().map(|tls| -> Result<_, String> {
            let path = |file: &Option<crate::config::FileReference>| {
                file.as_ref().map(|file| file.path.clone())
            };
            let settings = TlsSettings {
                cafile: path(&tls.cafile),
                capath: path(&tls.capath),
                use_os_certs: tls.use_os_certs,
                identity: path(&tls.certfile).zip(path(&tls.keyfile)),
                insecure: tls.insecure,
                version: (tls.version_min == TlsVersion::V13).then(|| "tlsv1.3".to_owned()),
                alpn: tls.alpn.clone(),
            };
            let lists = CipherLists {
                older: ("bridge_ciphers", tls.ciphers.as_deref()),
                newer: ("bridge_ciphers_tls1.3", tls.ciphers_tls13.as_deref()),
                tls_version: tls.version_min.into(),
            };
            let provider = provider(lists, warnings).map_err(|error| error.to_string())?;
            client_config_with(&settings, provider).map_err(|error| error.to_string())
        });
        Ok(Self {
            bridge: bridge.clone(),
            tls: tls.transpose()?,
        })
    }
}

/// The bridges of a broker.
#[derive(Debug)]
pub struct Bridges {
    mailboxes: Arc<[Mailbox]>,
    host_name: String,
    beside: Beside,
    table: BridgeTable,
    running: Vec<Running>,
    /// Threads of those that were ended.
    leaving: Vec<Arc<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Running {
    /// As it was asked for last.
    bridge: Bridge,
    handle: Handle,
    thread: Arc<JoinHandle<()>>,
}

impl Bridges {
    /// None so far; `table` has what they do.
    pub fn new(mailboxes: Arc<[Mailbox]>, beside: Beside, table: BridgeTable) -> Self {
        let name = rustix::system::uname();
        Self {
            mailboxes,
            host_name: name.nodename().to_string_lossy().into_owned(),
            beside,
            table,
            running: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Has each keep what it is to pass on from now on, and connects it. To this broker they come as Clients of `listener`.
    ///
    /// # Errors
    /// The system's, or the broker has no room for its Session.
    pub fn start(
        &mut self,
        listener: ListenerId,
        bridges: Vec<PreparedBridge>,
        policy: &Policy,
    ) -> io::Result<()> {
        for prepared in bridges {
            self.start_one(listener, prepared, policy, true)?;
        }
        Ok(())
    }

    fn start_one(
        &mut self,
        listener: ListenerId,
        prepared: PreparedBridge,
        policy: &Policy,
        is_kept_at_once: bool,
    ) -> io::Result<()> {
        let bridge = prepared.bridge.clone();
        let (handle, control) = control()?;
        let host_name = self.host_name.clone();
        let broker = Broker {
            listener,
            mailboxes: self.mailboxes.clone(),
        };
        let numbers = self.table.add(&bridge.name);
        let mut runner = Runner::new(prepared, host_name, broker, policy, control, numbers);
        if is_kept_at_once {
            // From the first message on, whether or not the remote broker can be reached.
            runner.keep().map_err(|error| {
                let name = shown(&runner.bridge.name);
                io::Error::new(error.kind(), format!("bridge {name}: {error}"))
            })?;
        }
        self.leaving.retain(|thread| !thread.is_finished());
        let leaving = self.leaving.clone();
        let beside = self.beside;
        let thread = std::thread::Builder::new()
            .name("fastmq-bridge".into())
            .spawn(move || {
                beside.enter();
                runner.run(&leaving);
            })?;
        self.running.push(Running {
            bridge,
            handle,
            thread: Arc::new(thread),
        });
        Ok(())
    }

    /// Has these be the bridges: begins those that are new, ends those that are gone, and changes the others.
    pub fn reload(&mut self, listener: ListenerId, bridges: Vec<PreparedBridge>, policy: &Policy) {
        let all = bridges.iter();
        let names: Vec<_> = all
            .map(|it| Names::new(&it.bridge, &self.host_name))
            .collect();
        let mut before = std::mem::take(&mut self.running);
        let mut begun = Vec::new();
        for prepared in bridges {
            let name = &prepared.bridge.name;
            let same = before.iter().position(|it| it.bridge.name == *name);
            let same = same.filter(|&index| !before[index].thread.is_finished());
            let Some(index) = same else {
                begun.push(prepared);
                continue;
            };
            let mut running = before.swap_remove(index);
            let bridge = prepared.bridge.clone();
            let has_changed = !bridge.says_the_same_as(&running.bridge);
            let is_urgent = bridge.is_reloaded_at_once && has_changed;
            let limits = LocalLimits::new(policy);
            let names = names.clone();
            let handle = &mut running.handle;
            handle.change(prepared, limits, names, is_urgent, has_changed);
            running.bridge = bridge;
            self.running.push(running);
        }
        for running in before {
            let name = shown(&running.bridge.name);
            tracing::info!("Bridge {name} is gone");
            self.table.remove(&running.bridge.name);
            running.handle.remove(names.clone());
            self.leaving.push(running.thread);
        }
        // Behind those that are gone, whose Sessions and names at either broker they may have.
        for prepared in begun {
            // Nobody waits for it, and the broker goes on as it is.
            let name = shown(&prepared.bridge.name);
            if let Err(error) = self.start_one(listener, prepared, policy, false) {
                tracing::error!("bridge {name}: {error}");
            }
        }
    }

    /// Has all of them say goodbye, and waits for it, but not for one that cannot.
    pub fn stop(&mut self) {
        let until = Instant::now() + STOP_PATIENCE;
        let running = std::mem::take(&mut self.running);
        let running = running.into_iter().map(|it| it.thread);
        let threads: Vec<_> = running.chain(self.leaving.drain(..)).collect();
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(STOP_STEP);
        }
    }
}

/// What bridges share.
#[derive(Clone, Debug)]
struct Broker {
    listener: ListenerId,
    mailboxes: Arc<[Mailbox]>,
}

impl Broker {
    /// A connection to this broker, to one of its shards.
    fn join(&self) -> io::Result<Link> {
        let (ours, theirs) = UnixStream::pair()?;
        let is_taken = self
            .mailboxes
            .first()
            .is_some_and(|mailbox| mailbox.join(self.listener, theirs.into()));
        if !is_taken {
            return Err(io::Error::other("it has ended"));
        }
        Link::over(ours)
    }

    fn publish(&self, topic_name: &str, payload: &[u8]) {
        if let Some(mailbox) = self.mailboxes.first() {
            mailbox.publish(topic_name, payload, QoS::AtLeastOnce, true);
        }
    }
}

/// Subscriptions of an earlier configuration.
#[derive(Debug, Default)]
struct Stale {
    /// At this broker.
    local: Vec<String>,
    /// At the remote one.
    remote: Vec<String>,
}

#[derive(Debug)]
struct Runner {
    bridge: Bridge,
    tls: Option<Arc<ClientConfig>>,
    host_name: String,
    options: Arc<RemoteOptions>,
    topics: Topics,
    /// What earlier configurations subscribed to.
    stale: Stale,
    orphans: Orphans,
    limits: LocalLimits,
    broker: Broker,
    /// Where this broker's Clients are told whether the bridge is connected.
    notification_topic: Option<String>,
    control: Control,
    numbers: Arc<BridgeNumbers>,
    /// Of the addresses, the one that is tried next.
    address: usize,
    /// The pause before the last attempt.
    pause: Duration,
    dropped: Dropped,
    /// Whether its Session is known to be there, with its subscriptions.
    is_kept: bool,
}

/// Messages that were not passed on.
#[derive(Debug, Default)]
struct Dropped {
    told_at: Option<Instant>,
    untold: u64,
}

impl Runner {
    fn new(
        prepared: PreparedBridge,
        host_name: String,
        broker: Broker,
        policy: &Policy,
        control: Control,
        numbers: Arc<BridgeNumbers>,
    ) -> Self {
        let PreparedBridge { bridge, tls } = prepared;
        let options = Arc::new(RemoteOptions::new(&bridge, &host_name));
        Self {
            topics: Topics::new(&bridge.topics),
            stale: Stale::default(),
            orphans: Orphans::default(),
            limits: LocalLimits::new(policy),
            notification_topic: notification_topic(&bridge, &options),
            broker,
            host_name,
            options,
            tls,
            control,
            numbers,
            address: 0,
            pause: Duration::ZERO,
            dropped: Dropped::default(),
            is_kept: false,
            bridge,
        }
    }

    /// Becomes what a reload has made of it.
    fn change(&mut self, prepared: PreparedBridge, limits: LocalLimits) {
        self.limits = limits;
        let PreparedBridge { bridge, tls } = prepared;
        let options = Arc::new(RemoteOptions::new(&bridge, &self.host_name));
        let topics = Topics::new(&bridge.topics);
        if options.local_client_identifier == self.options.local_client_identifier {
            let local = self.topics.missing_in(&topics, Way::Out);
            self.stale.local.extend(local);
        } else {
            self.forget_own();
            self.stale.local.clear();
        }
        let remote = self.topics.missing_in(&topics, Way::In);
        self.stale.remote.extend(remote);
        // What has been taken back meanwhile is wanted.
        for (stale, way) in [
            (&mut self.stale.local, Way::Out),
            (&mut self.stale.remote, Way::In),
        ] {
            stale.retain(|filter| !topics.filters(way).any(|(kept, _)| kept == filter));
        }
        let topic_name = notification_topic(&bridge, &options);
        if topic_name != self.notification_topic {
            self.notify_last();
        }
        self.notification_topic = topic_name;
        self.address = 0;
        self.pause = Duration::ZERO;
        self.is_kept = false;
        self.options = options;
        self.topics = topics;
        self.tls = tls;
        self.bridge = bridge;
    }

    /// Has its Session be there.
    fn keep(&mut self) -> io::Result<()> {
        if !self.options.local_clean_start && !self.is_kept {
            let is_old = presence::subscribe(
                self.broker.join()?,
                &self.options,
                &self.topics,
                &self.stale.local,
            )?;
            self.stale.local.clear();
            self.orphans.remote |= !is_old;
        }
        self.is_kept = true;
        Ok(())
    }

    /// Has its Session be gone, unless it is another bridge's by now.
    fn forget_own(&self) {
        let own = &self.options.local_client_identifier;
        if !self.control.is_taken(|it| it.client_identifier == *own) {
            self.forget();
        }
    }

    /// Nobody is told there any more, unless by another bridge.
    fn notify_last(&self) {
        let own = &self.notification_topic;
        if !self.control.is_taken(|it| it.notification_topic == *own) {
            self.notify(b"");
        }
    }

    fn forget(&self) {
        let forgotten = self
            .broker
            .join()
            .and_then(|link| presence::forget(link, &self.options));
        if let Err(error) = forgotten {
            let name = shown(&self.bridge.name);
            tracing::warn!("Bridge {name}: its session at this broker stays: {error}");
        }
    }

    /// Is a bridge once those that are `leaving` have left.
    fn run(mut self, leaving: &[Arc<JoinHandle<()>>]) {
        while leaving.iter().any(|thread| !thread.is_finished()) {
            match self.control.wait_until(Instant::now() + LEFT_STEP) {
                Some(Asked::Stop) => return,
                Some(Asked::Remove) => return self.remove(),
                Some(Asked::Change) | None => {}
            }
        }
        self.notify(b"0");
        loop {
            if let Some((next, limits)) = self.control.take_next() {
                self.change(next, limits);
                self.notify(b"0");
            }
            let (end, was_linked) = match self.keep() {
                Ok(()) => self.visit(),
                Err(error) => (End::Lost(format!("this broker: {error}")), false),
            };
            self.numbers.set_connected(false);
            if was_linked {
                self.notify(b"0");
                self.pause = Duration::ZERO;
                self.stale.remote.clear();
            }
            let name = shown(&self.bridge.name);
            if self.options.try_private && end.is_for_bridges() {
                // As in Mosquitto.
                tracing::info!(
                    "Bridge {name}: the remote broker takes no bridges: it is told of a client"
                );
                self.options = Arc::new(RemoteOptions {
                    try_private: false,
                    ..RemoteOptions::new(&self.bridge, &self.host_name)
                });
                continue;
            }
            let said = match end {
                End::Asked(asked) => match asked {
                    Asked::Stop => return,
                    Asked::Remove => return self.remove(),
                    Asked::Change => continue,
                },
                End::Preferred => {
                    tracing::info!("Bridge {name}: its first address can be reached again");
                    self.address = 0;
                    continue;
                }
                End::Lost(said) => said,
                End::Ended(ended) => ended.to_string(),
            };
            if self.bridge.start_type == StartType::Once {
                tracing::warn!("Bridge {name} has ended: {said}");
                match self.control.rest() {
                    Asked::Stop => return,
                    Asked::Remove => return self.remove(),
                    Asked::Change => continue,
                }
            }
            let pause = self.next_attempt(was_linked);
            tracing::warn!(
                "Bridge {name}: {said}; connecting again in {:.1} s",
                pause.as_secs_f32()
            );
            match self.control.wait_until(Instant::now() + pause) {
                Some(Asked::Stop) => return,
                Some(Asked::Remove) => return self.remove(),
                Some(Asked::Change) | None => {}
            }
        }
    }

    /// Leaves nothing behind.
    fn remove(self) {
        if !self.options.local_clean_start {
            self.forget_own();
        }
        self.notify_last();
    }

    /// Chooses the address that is tried next, and says how long to wait before that: all of them are tried one after the
    /// other, then there is a pause.
    fn next_attempt(&mut self, was_linked: bool) -> Duration {
        let next = (self.address + 1) % self.bridge.addresses.len().max(1);
        // Without round_robin the first one is the one to be at.
        self.address = if was_linked && !self.bridge.round_robin {
            0
        } else {
            next
        };
        if self.address == 0 || was_linked {
            self.next_pause()
        } else {
            Duration::ZERO
        }
    }

    /// One connection, and whether it was made.
    fn visit(&mut self) -> (End, bool) {
        let Some(address) = self.bridge.addresses.get(self.address).cloned() else {
            return (End::Lost("it has no address".to_owned()), false);
        };
        let endpoint = Endpoint {
            target: Target::Tcp {
                host: address.host.clone(),
                port: address.port,
            },
            bind_address: self.bridge.bind_address.clone(),
            nodelay: true,
            tls: None,
            web_socket: None,
        };
        let name = shown(&self.bridge.name);
        tracing::info!(
            "Connecting bridge {name} ({})",
            shown(&endpoint.target.to_string())
        );
        let remote = match self.open(endpoint) {
            Ok(remote) => remote,
            Err(end) => return (end, false),
        };
        if let Err(error) = self.set_socket_options(&remote) {
            return (End::Lost(error.to_string()), false);
        }
        let is_fallback = self.address > 0 && !self.bridge.round_robin;
        let mut probe = is_fallback
            .then(|| self.bridge.addresses.first())
            .flatten()
            .map(|first| Probe::new(first.host.clone(), first.port));
        let relay = Relay::new(
            &self.options,
            &self.topics,
            &self.stale.remote,
            self.orphans,
            self.limits,
            &self.numbers,
            Instant::now(),
        );
        let local = match self.broker.join() {
            Ok(local) => local,
            Err(error) => return (End::Lost(format!("this broker: {error}")), false),
        };
        let mut visit = Visit::new(relay, remote, local);
        let mut is_linked = false;
        let broker = self.broker.clone();
        let topic_name = self.notification_topic.clone();
        let dropped = &mut self.dropped;
        let end = visit.run(
            &self.control,
            &mut || broker.join(),
            &mut |event| match event {
                Event::Rejoin => {}
                Event::Linked => {
                    is_linked = true;
                    tracing::info!("Bridge {name} is connected");
                    if let Some(topic_name) = &topic_name {
                        broker.publish(topic_name, b"1");
                    }
                }
                Event::Refused {
                    way,
                    filter,
                    reason_code,
                    others,
                } => {
                    let at = match way {
                        Way::In => "the remote broker",
                        Way::Out => "this broker",
                    };
                    tracing::warn!(
                        "Bridge {name}: {at} refused the subscription to {} ({reason_code:?}), and {others} more",
                        shown(&filter)
                    );
                }
                Event::Dropped {
                    way,
                    topic_name,
                    why,
                } => dropped.tell(&name, way, &topic_name, why),
            },
            &mut |now| match &mut probe {
                Some(probe) => probe.look(now),
                None => (false, None),
            },
        );
        self.orphans = visit.orphans();
        if matches!(end, End::Asked(_) | End::Preferred) {
            visit.leave();
        }
        (end, is_linked)
    }

    /// Connects to the remote broker, in a thread of its own: nobody can be told how long a name is looked up, or end that.
    fn open(&self, endpoint: Endpoint) -> Result<Link, End> {
        let lost = |error: io::Error| End::Lost(error.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(lost)?;
        let (sender, opened) = channel();
        let tls = self.tls.clone();
        let open = move || {
            // Nobody may wait for it any more.
            let _ = sender.send(Link::open(&endpoint, tls.as_ref()));
            drop(theirs);
        };
        std::thread::Builder::new()
            .name("fastmq-connect".into())
            .spawn(open)
            .map_err(lost)?;
        loop {
            let mut files = [
                PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN),
            ];
            wait(&mut files, None).map_err(lost)?;
            if let Some(asked) = self.control.asked() {
                return Err(End::Asked(asked));
            }
            match opened.try_recv() {
                Ok(opened) => return opened.map_err(|error| End::Lost(error.to_string())),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(End::Lost("its connection was not opened".to_owned()));
                }
            }
        }
    }

    fn set_socket_options(&self, link: &Link) -> io::Result<()> {
        let descriptor = link.as_fd();
        let socket = SockRef::from(&descriptor);
        if let Some(asked) = &self.bridge.tcp_keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(asked.idle)
                .with_interval(asked.interval)
                .with_retries(asked.counter);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if let Some(timeout) = self.bridge.tcp_user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }

    fn notify(&self, payload: &[u8]) {
        if let Some(topic_name) = &self.notification_topic {
            self.broker.publish(topic_name, payload);
        }
    }

    /// How long it waits before it connects again: at random, so that all who have lost a broker do not come back at once,
    /// and longer each time.
    fn next_pause(&mut self) -> Duration {
        self.pause = match self.bridge.restart {
            RestartTimeout::Constant(pause) => pause,
            RestartTimeout::Backoff { base, cap } => {
                let longest = (self.pause * 3).clamp(base, cap.max(base));
                let random = RandomState::new().hash_one(&self.bridge.name) as u32;
                let share = f64::from(random) / f64::from(u32::MAX);
                base + (longest - base).mul_f64(share)
            }
        };
        self.pause
    }
}

impl Dropped {
    fn tell(&mut self, name: &str, way: Way, topic_name: &str, why: &str) {
        let now = Instant::now();
        let is_recent = |at: Instant| now.duration_since(at) < DROPPED_EVERY;
        if self.told_at.is_some_and(is_recent) {
            self.untold += 1;
            return;
        }
        let to = match way {
            Way::In => "to this broker",
            Way::Out => "to the remote broker",
        };
        tracing::warn!(
            "Bridge {name}: a message to {} was not passed on {to}: {why}; {} more since it was said last",
            shown(topic_name),
            self.untold
        );
        self.told_at = Some(now);
        self.untold = 0;
    }
}
