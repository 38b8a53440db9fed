//! Files of a store that are lost, emptied, exchanged, or of another time.

use super::*;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// A store of two shards whose logs have several segments each, as a broker leaves it that ends.
fn store(folder: &Folder) {
    let mut broker = Broker::open(folder, 2);
    for shard in 0..2 {
        let name = broker.name_on(shard);
        sleeper(&mut broker, &name);
    }
    publish_many(&mut broker, 900);
    broker.end();
    for shard in ["-000-", "-001-"] {
        assert!(logs_of(folder, shard).len() > 2);
    }
}

fn publish_many(broker: &mut Broker, count: u16) {
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    let payload = "x".repeat(100);
    for number in 1..=count {
        broker.send(publisher, &publish(QOS1, "t", number, &payload));
        if number % 50 == 0 {
            broker.stored(publisher);
        }
    }
}

fn logs_of(folder: &Folder, shard: &str) -> Vec<PathBuf> {
    let mut paths = folder.segments();
    paths.retain(|path| path.to_str().unwrap().contains(shard));
    paths
}

/// All files and what they hold, but for the lock.
fn files(folder: &Folder) -> BTreeMap<OsString, Vec<u8>> {
    let entries = fs::read_dir(&folder.0).unwrap().map(Result::unwrap);
    let names = entries.map(|entry| entry.file_name());
    names
        .filter(|name| name != "LOCK")
        .map(|name| (name.clone(), fs::read(folder.0.join(name)).unwrap()))
        .collect()
}

/// Puts a store back, and nothing else.
fn put_back(folder: &Folder, saved: &BTreeMap<OsString, Vec<u8>>) {
    for name in files(folder).keys() {
        fs::remove_file(folder.0.join(name)).unwrap();
    }
    for (name, content) in saved {
        fs::write(folder.0.join(name), content).unwrap();
    }
}

fn inventories(folder: &Folder) -> Vec<PathBuf> {
    let names = files(folder).into_keys();
    let names = names.filter(|name| name.to_str().unwrap().ends_with(".segments"));
    names.map(|name| folder.0.join(name)).collect()
}

fn refused(folder: &Folder, count: usize, recover: bool) -> String {
    let error = Broker::try_open(&folder.0, count, recover).map(|_| ());
    error.unwrap_err().to_string()
}

/// The start is refused, whatever number of shards it is for, names the file and says what can be done; nothing
/// is changed by that.
fn assert_refused(folder: &Folder, path: &Path) {
    let before = files(folder);
    for count in [2, 1] {
        let text = refused(folder, count, false);
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains("--recover"), "{text}");
        assert!(before == files(folder));
    }
}

#[test]
fn any_file_of_a_store_that_is_missing_is_named_at_the_start_and_recover_goes_on_without_it() {
    let folder = Folder::new();
    store(&folder);
    let saved = files(&folder);
    for name in saved.keys() {
        put_back(&folder, &saved);
        let path = folder.0.join(name);
        fs::remove_file(&path).unwrap();
        assert_refused(&folder, &path);
        let broker = Broker::try_open(&folder.0, 2, true).unwrap();
        let is_log = path.extension().is_some_and(|it| it == "log");
        assert_eq!(broker.report.lost_frames > 0, is_log, "{name:?}");
        if !is_log {
            assert_eq!(broker.report.sessions, 2);
            assert_eq!(broker.report.deliveries, 1800);
        }
        broker.end();
        // Once.
        let again = Broker::open(&folder, 2);
        assert_eq!(again.report.lost_frames, 0);
        again.end();
    }
}

#[test]
fn any_file_of_a_store_that_is_emptied_is_named_at_the_start_and_recover_goes_on_without_it() {
    let folder = Folder::new();
    store(&folder);
    let saved = files(&folder);
    for (number, (name, content)) in saved.iter().enumerate() {
        let zeros = vec![0; content.len()];
        let left = [&[][..], &content[..20], &zeros][number % 3];
        put_back(&folder, &saved);
        let path = folder.0.join(name);
        fs::write(&path, left).unwrap();
        assert_refused(&folder, &path);
        let broker = Broker::try_open(&folder.0, 2, true).unwrap();
        let is_log = path.extension().is_some_and(|it| it == "log");
        assert_eq!(broker.report.lost_frames > 0, is_log, "{name:?}");
        broker.end();
        Broker::open(&folder, 2).end();
    }
}

#[test]
fn a_log_that_is_gone_with_its_inventory_is_missed() {
    let folder = Folder::new();
    store(&folder);
    let saved = files(&folder);
    for shard in ["-000", "-001"] {
        put_back(&folder, &saved);
        let gone = saved
            .keys()
            .filter(|it| it.to_str().unwrap().contains(shard));
        for name in gone {
            fs::remove_file(folder.0.join(name)).unwrap();
        }
        let path = folder.0.join(format!("00000001{shard}.segments"));
        assert_refused(&folder, &path);
    }
}

#[test]
fn a_log_that_has_lost_its_end_since_the_broker_ended_is_refused() {
    let folder = Folder::new();
    store(&folder);
    let saved = files(&folder);
    let ends = ["-000-", "-001-"].map(|shard| logs_of(&folder, shard).pop().unwrap());
    for path in ends {
        put_back(&folder, &saved);
        let end = end_of_frames(&path);
        for left in [SEGMENT_HEADER_SIZE, end - 1] {
            put_back(&folder, &saved);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(left as u64).unwrap();
            assert_refused(&folder, &path);
            let broker = Broker::try_open(&folder.0, 2, true).unwrap();
            assert!(broker.report.lost_frames > 0);
        }
    }
}

#[test]
fn a_store_of_a_version_without_inventories_opens_and_has_them_from_then_on() {
    let folder = Folder::new();
    store(&folder);
    for path in inventories(&folder) {
        fs::remove_file(path).unwrap();
    }
    let broker = Broker::open(&folder, 2);
    assert_eq!(broker.report.deliveries, 1800);
    broker.end();
    assert_eq!(inventories(&folder).len(), 2);
    let path = logs_of(&folder, "-001-").pop().unwrap();
    fs::remove_file(&path).unwrap();
    assert_refused(&folder, &path);
}

#[test]
fn a_store_opens_though_a_version_without_inventories_has_written_to_it_and_shortened_it() {
    let folder = Folder::new();
    store(&folder);
    let saved = files(&folder);
    let first = logs_of(&folder, "-000-").remove(0);
    let mut broker = Broker::open(&folder, 2);
    for shard in &mut broker.shards {
        shard.begin_snapshot();
    }
    broker.work(&[0, 1], |broker| {
        broker.exchange();
        !first.exists()
    });
    publish_many(&mut broker, 50);
    broker.end();
    // As if nobody had written to them meanwhile.
    for path in inventories(&folder) {
        fs::write(&path, &saved[path.file_name().unwrap()]).unwrap();
    }
    let broker = Broker::open(&folder, 2);
    assert_eq!(broker.report.deliveries, 1900);
    broker.end();
    let path = logs_of(&folder, "-001-").pop().unwrap();
    fs::remove_file(&path).unwrap();
    assert_refused(&folder, &path);
}

#[test]
fn what_is_installed_and_lost_before_its_first_start_is_missed() {
    let folder = Folder::new();
    install_in(&folder, &moved("c")).unwrap();
    let path = folder.segments().pop().unwrap();
    fs::remove_file(&path).unwrap();
    assert_refused(&folder, &path);
}

#[test]
fn logs_with_exchanged_names_are_told_where_they_belong_and_recover_does_not_advise_itself() {
    let folder = Folder::new();
    store(&folder);
    let saved = files(&folder);
    let first = logs_of(&folder, "-000-").remove(0);
    let second = logs_of(&folder, "-001-").remove(0);
    let [one, other] = [&first, &second].map(|path| fs::read(path).unwrap());
    fs::write(&first, &other).unwrap();
    fs::write(&second, &one).unwrap();
    for recover in [false, true] {
        let text = refused(&folder, 2, recover);
        for path in [&first, &second] {
            assert!(text.contains(path.to_str().unwrap()), "{text}");
        }
        assert!(text.contains("give each its name back"), "{text}");
    }
    // As the message says.
    let away = folder.0.join("away");
    fs::rename(&first, &away).unwrap();
    fs::rename(&second, &first).unwrap();
    fs::rename(&away, &second).unwrap();
    Broker::open(&folder, 2).end();
    // Or where the one that belongs there is lost.
    put_back(&folder, &saved);
    fs::write(&second, &one).unwrap();
    let text = refused(&folder, 2, true);
    assert!(text.contains("move this one away"), "{text}");
    fs::remove_file(&second).unwrap();
    assert_refused(&folder, &second);
    let broker = Broker::try_open(&folder.0, 2, true).unwrap();
    assert!(broker.report.lost_frames > 0);
}

#[test]
fn a_damaged_manifest_is_made_anew_from_the_logs_and_nothing_is_lost() {
    let folder = Folder::new();
    store(&folder);
    let path = folder.0.join("STORE");
    let saved = files(&folder);
    let text = fs::read_to_string(&path).unwrap();
    for damaged in [text.replace("shards 2", "shards 1"), "mine\n".to_owned()] {
        put_back(&folder, &saved);
        fs::write(&path, damaged).unwrap();
        assert_refused(&folder, &path);
        for (count, recover) in [(1, true), (2, false)] {
            let broker = Broker::try_open(&folder.0, count, recover).unwrap();
            let report = &broker.report;
            assert_eq!((report.sessions, report.deliveries), (2, 1800));
            broker.end();
        }
    }
    // Another version has to read its own.
    put_back(&folder, &saved);
    fs::write(&path, text.replace("format 1", "format 2")).unwrap();
    for recover in [false, true] {
        let text = refused(&folder, 2, recover);
        assert!(text.contains("format 2; this program reads"), "{text}");
        assert!(!text.contains("--recover"), "{text}");
    }
}

#[test]
fn a_manifest_that_is_older_than_the_logs_is_refused_and_they_are_not_removed() {
    let folder = Folder::new();
    store(&folder);
    let path = folder.0.join("STORE");
    let older = fs::read(&path).unwrap();
    // Another number of shards begins another generation.
    Broker::open(&folder, 1).end();
    Broker::open(&folder, 2).end();
    fs::write(&path, older).unwrap();
    assert_refused(&folder, &path);
    let broker = Broker::try_open(&folder.0, 2, true).unwrap();
    let report = &broker.report;
    assert_eq!((report.sessions, report.deliveries), (2, 1800));
}

#[test]
fn a_manifest_is_not_made_anew_where_logs_of_two_generations_are() {
    let folder = Folder::new();
    store(&folder);
    let log = logs_of(&folder, "-000-").remove(0);
    let other = log.to_str().unwrap().replace("00000001-", "00000007-");
    fs::copy(&log, &other).unwrap();
    fs::remove_file(folder.0.join("STORE")).unwrap();
    let before = files(&folder);
    let text = refused(&folder, 2, true);
    assert!(text.contains("generations 1, 7"), "{text}");
    assert!(before == files(&folder));
}
