//! What a core is told of the room in the rings to other shards: it lets publishers go on by that.

#![forbid(unsafe_code)]

use super::super::mesh::Mesh;
use super::Echo;
use crate::key::ShardId;
use crate::limits::RING_SLOTS;
use crate::net::{DataPath, Room, Waker};
use crate::time::Instant;

#[test]
fn a_core_knows_the_room_of_a_ring_before_it_first_sends_and_whenever_that_has_changed() {
    let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
    let room = Room::new(2);
    let mut shards: Vec<_> = Mesh::all(&wakers)
        .into_iter()
        .zip(&wakers)
        .map(|(mesh, waker)| {
            let core = Echo::new(mesh.shard(), 2);
            let path = DataPath::new(core, vec![], waker.clone(), room.clone(), Instant::ZERO);
            (mesh, path.unwrap())
        })
        .collect();
    let [(sender, path), (receiver, receiving)] = &mut shards[..] else {
        unreachable!("two shards")
    };
    let to = ShardId(1);
    let told = |path: &mut DataPath<Echo>| std::mem::take(&mut path.core_mut().rooms);

    sender.send(path);
    assert_eq!(told(path), [(to, RING_SLOTS)]);
    sender.send(path);
    assert_eq!(told(path), [], "nothing has changed");

    let envelopes = (0..10).map(|_| b"?".to_vec());
    path.core_mut().outbound[1].extend(envelopes);
    assert!(!sender.send(path), "all have left");
    assert_eq!(told(path), [(to, RING_SLOTS - 10)]);

    // More than there is room for.
    let envelopes = (0..RING_SLOTS).map(|_| b"?".to_vec());
    path.core_mut().outbound[1].extend(envelopes);
    assert!(sender.send(path), "some are left");
    assert_eq!(told(path), [(to, 0)]);

    // Room comes back though nothing is sent.
    while !receiver.announce_sleep() {
        receiving.begin_part();
        receiver.receive(receiving);
    }
    receiver.retract_sleep();
    path.core_mut().outbound[1].clear();
    sender.send(path);
    assert_eq!(told(path), [(to, RING_SLOTS)]);
    sender.send(path);
    assert_eq!(told(path), []);
}
