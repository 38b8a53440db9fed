//! Password checks, beside the shards: each takes milliseconds on purpose.
//!
//! Few threads, less urgent than shards, so that a storm of logins delays logins and no message.
//! Who waits is bounded by the connections there are, since each is not read until it has its
//! answer. Listeners and the networks behind them take turns: a flood of guesses from one place delays
//! that place. Verdicts are not remembered, since whatever would find one again would be worth as much
//! as the password.

#![forbid(unsafe_code)]

use super::{Beside, Mailbox, step_back};
use crate::key::ShardId;
use crate::origin::{ListenerId, PeerAddress};
use crate::shard::{AuthenticationRequest, Command, Verdict};
use crossbeam::channel::Receiver;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Most threads that check passwords. Each may need the memory of one argon2id hash.
const THREADS_MAX: usize = 2;
/// CPUs that are enough for a second one.
const CPUS_FOR_EACH: usize = 4;

/// A password to check, and the shard that waits for it.
type Request = (ShardId, Box<AuthenticationRequest>);

/// Checks passwords on threads of its own until no shard can ask any more.
///
/// Every request is answered, and against what its listener was set to when its CONNECT was read; a
/// shard that has been configured since asks again.
///
/// # Errors
/// When a thread cannot be started.
pub fn authenticate(
    requests: Receiver<Request>,
    mailboxes: Arc<[Mailbox]>,
    beside: Beside,
) -> io::Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let threads = (cpus / CPUS_FOR_EACH).clamp(1, THREADS_MAX);
    authenticate_by(requests, mailboxes, beside, threads, |request| {
        let passwords = request.security.passwords.as_ref();
        passwords.is_some_and(|it| it.verify(&request.username, &request.password))
    })
}

/// As [`authenticate`], on so many threads, by `verify`.
pub(super) fn authenticate_by<F>(
    requests: Receiver<Request>,
    mailboxes: Arc<[Mailbox]>,
    beside: Beside,
    threads: usize,
    verify: F,
) -> io::Result<()>
where
    F: Fn(&AuthenticationRequest) -> bool + Clone + Send + 'static,
{
    let waiting = Arc::new(Waiting::default());
    for _ in 0..threads {
        let (waiting, mailboxes, verify) = (waiting.clone(), mailboxes.clone(), verify.clone());
        thread::Builder::new()
            .name("fastmq-password".into())
            .spawn(move || {
                beside.enter();
                step_back();
                while let Some((shard, request)) = waiting.take() {
                    let verdict = if verify(&request) {
                        Verdict::Accepted
                    } else {
                        Verdict::Refused
                    };
                    if let Some(mailbox) = mailboxes.get(shard.index()) {
                        mailbox.send(Command::Authenticated {
                            connection: request.connection,
                            verdict,
                            security: request.security,
                        });
                    }
                }
            })?;
    }
    thread::Builder::new()
        .name("fastmq-logins".into())
        .spawn(move || {
            for request in &requests {
                waiting.put(request);
            }
            waiting.close();
        })?;
    Ok(())
}

/// Requests that wait for a thread.
#[derive(Default)]
struct Waiting {
    lanes: Mutex<Lanes>,
    changed: Condvar,
}

impl Waiting {
    fn put(&self, request: Request) {
        self.lock().put(request);
        self.changed.notify_one();
    }

    /// Whose turn it is; `None` when there will be no more.
    fn take(&self) -> Option<Request> {
        let mut lanes = self.lock();
        loop {
            if let Some(request) = lanes.take() {
                return Some(request);
            }
            if lanes.closed {
                return None;
            }
            lanes = self
                .changed
                .wait(lanes)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One queue for each place that logins come from, and whose turn it is.
#[derive(Default)]
struct Lanes {
    by_place: HashMap<Place, VecDeque<Request>>,
    /// Every place that has somebody waiting, once.
    turns: VecDeque<Place>,
    closed: bool,
}

impl Lanes {
    fn put(&mut self, request: Request) {
        let place = Place::of(&request.1);
        match self.by_place.entry(place) {
            Entry::Occupied(mut lane) => lane.get_mut().push_back(request),
            Entry::Vacant(lane) => {
                lane.insert(VecDeque::from([request]));
                self.turns.push_back(place);
            }
        }
    }

    fn take(&mut self) -> Option<Request> {
        let place = self.turns.pop_front()?;
        let Entry::Occupied(mut lane) = self.by_place.entry(place) else {
            return None;
        };
        let request = lane.get_mut().pop_front();
        if lane.get().is_empty() {
            lane.remove();
        } else {
            self.turns.push_back(place);
        }
        request
    }
}

/// Where logins come from: those from one place wait for each other.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Place(ListenerId, Option<IpAddr>);

impl Place {
    fn of(request: &AuthenticationRequest) -> Self {
        let network = match request.peer {
            PeerAddress::Local => None,
            PeerAddress::Ip(address, _) => Some(match address.to_canonical() {
                // One subscriber of a provider has at least so many addresses.
                IpAddr::V6(address) => {
                    IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)))
                }
                address => address,
            }),
        };
        Self(request.listener, network)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::auth::Security;
    use crate::key::ConnectionKey;

    fn request(index: u32, listener: u16, peer: &str) -> Request {
        let peer = peer
            .parse()
            .map(|address: IpAddr| PeerAddress::Ip(address, index as u16));
        let request = AuthenticationRequest {
            connection: ConnectionKey {
                index,
                generation: 0,
            },
            listener: ListenerId(listener),
            security: Arc::new(Security::default()),
            username: "user".into(),
            password: (*b"password").into(),
            client_identifier: "client".into(),
            peer: peer.unwrap_or(PeerAddress::Local),
        };
        (ShardId(0), Box::new(request))
    }

    fn order(requests: impl IntoIterator<Item = Request>) -> Vec<u32> {
        let mut lanes = Lanes::default();
        requests.into_iter().for_each(|it| lanes.put(it));
        let order = std::iter::from_fn(|| lanes.take())
            .map(|(_, request)| request.connection.index)
            .collect();
        assert!(
            lanes.by_place.is_empty(),
            "a place that is done is forgotten"
        );
        assert!(lanes.turns.is_empty());
        order
    }

    #[test]
    fn a_flood_from_one_address_lets_another_go_after_one_check() {
        let mut requests: Vec<_> = (0..100).map(|it| request(it, 0, "10.0.0.1")).collect();
        requests.extend([request(100, 0, "10.0.0.2"), request(101, 0, "10.0.0.2")]);
        let order = order(requests);
        assert_eq!(order[..5], [0, 100, 1, 101, 2]);
        assert_eq!(order.len(), 102);
        assert!(
            order[4..].is_sorted(),
            "first come, first served, of one place"
        );
    }

    #[test]
    fn listeners_take_turns_even_for_one_address() {
        let requests = [
            request(0, 0, "10.0.0.1"),
            request(1, 0, "::ffff:10.0.0.1"),
            request(2, 1, "10.0.0.1"),
            request(3, 0, "a unix socket"),
        ];
        assert_eq!(order(requests), [0, 2, 3, 1]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_wait_for_each_other() {
        let requests = [
            request(0, 0, "2001:db8::1"),
            request(1, 0, "2001:db8::2"),
            request(2, 0, "2001:db8:0:1::1"),
        ];
        assert_eq!(order(requests), [0, 2, 1]);
    }

    #[test]
    fn who_waits_for_requests_learns_that_there_will_be_none() {
        let waiting = Arc::new(Waiting::default());
        let others = waiting.clone();
        let thread = thread::spawn(move || std::iter::from_fn(|| others.take()).count());
        waiting.put(request(0, 0, "10.0.0.1"));
        waiting.put(request(1, 0, "10.0.0.1"));
        waiting.close();
        assert_eq!(thread.join().unwrap(), 2, "what waited is answered first");
    }
}
