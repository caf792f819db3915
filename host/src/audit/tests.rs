use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::telemetry::metrics::Metrics;

fn config(file: &Path, max_size: u64, keep: usize) -> AuditConfig {
    AuditConfig { file: Some(file.to_owned()), max_size, keep, reads: false }
}

fn record(account: &str) -> Record {
    Record { account: account.to_owned(), method: "PUT".to_owned(), ..Record::default() }
}

fn accounts(files: &[PathBuf]) -> Vec<String> {
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("is readable")).collect();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Record>(line).ok())
        .map(|record| record.account)
        .collect()
}

async fn ended(tasks: &Tasks) {
    tasks.drain().cancel();
    assert!(tasks.finish(Duration::from_secs(60)).await, "the writer ends with the last handle");
}

#[tokio::test]
async fn every_record_is_in_the_file_when_the_process_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("made/audit.jsonl");
    let metrics = Metrics::new([]).expect("metrics");
    let tasks = Tasks::new();
    let audit = Audit::open(&config(&path, 1 << 20, 2), &metrics.meter("audit"), &tasks).expect("opens");
    for number in 0..1000 {
        audit.record(record(&number.to_string()));
    }
    drop(audit);
    ended(&tasks).await;
    let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(accounts(std::slice::from_ref(&path)), expected);
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        metrics.render().contains("muster_audit_records_total{fate=\"written\"} 1000"),
        "{}",
        metrics.render()
    );
}

#[tokio::test]
async fn an_abort_writes_what_is_queued() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let metrics = Metrics::new([]).expect("metrics");
    let tasks = Tasks::new();
    let audit = Audit::open(&config(&path, 1 << 20, 2), &metrics.meter("audit"), &tasks).expect("opens");
    audit.record(record("peter"));
    tasks.abort().cancel();
    tasks.drain().cancel();
    tasks.finish(Duration::from_secs(60)).await;
    assert_eq!(accounts(&[path]), ["peter"]);
    drop(audit);
}

#[test]
fn a_full_file_is_set_aside_and_the_oldest_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let mut file = RotatedFile::open(path.clone(), 10, 2).expect("opens");
    for line in ["one....\n", "two....\n", "three..\n", "four...\n"] {
        file.append(line.as_bytes()).expect("is written");
    }
    let files = files_of(&path).expect("is listed");
    let text: Vec<String> =
        files.iter().map(|file| std::fs::read_to_string(file).expect("is readable")).collect();
    assert_eq!(text, ["two....\n", "three..\n", "four...\n"]);
    for file in files {
        assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_line_stands_alone_after_half_a_line_and_a_move() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    std::fs::write(&path, "half").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    let mut file = RotatedFile::open(path.clone(), 1000, 2).expect("opens");
    file.append(b"whole\n").expect("is written");
    assert_eq!(std::fs::read_to_string(&path).expect("is readable"), "half\nwhole\n");
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    // As logrotate does.
    std::fs::rename(&path, directory.path().join("moved")).expect("is moved");
    file.append(b"next\n").expect("is written");
    assert_eq!(std::fs::read_to_string(&path).expect("is readable"), "next\n");
}

#[test]
fn a_follower_reads_whole_lines_over_a_rotation() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let mut follower = Follower::new(path.clone());
    assert!(follower.lines().expect("reads").is_empty(), "there is no file yet");
    let mut file = RotatedFile::open(path, 10, 3).expect("opens");
    file.append(b"one\nha").expect("is written");
    assert_eq!(follower.lines().expect("reads"), ["one"]);
    file.append(b"lf\n").expect("is written");
    file.append(b"rotated\n").expect("is written");
    assert_eq!(follower.lines().expect("reads"), ["half"]);
    assert_eq!(follower.lines().expect("reads"), ["rotated"]);
    assert!(follower.lines().expect("reads").is_empty());
}

#[test]
fn a_follower_catches_up_with_many_rotations_and_a_move() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let mut file = RotatedFile::open(path.clone(), 10, 2).expect("opens");
    file.append(b"earlier...\n").expect("is written");
    file.append(b"one\n").expect("is written");
    let mut follower = Follower::new(path.clone());
    assert_eq!(follower.earlier().expect("reads").len(), 1);
    assert_eq!(follower.lines().expect("reads"), ["one"]);
    // More than are kept: the file that was read is gone, and with it the second one.
    for line in ["second...\n", "third...\n", "fourth...\n", "fifth...\n"] {
        file.append(line.as_bytes()).expect("is written");
    }
    for line in ["third...", "fourth...", "fifth..."] {
        assert_eq!(follower.lines().expect("reads"), [line]);
    }
    assert!(follower.lines().expect("reads").is_empty());
    // As logrotate does. The older files are not read again.
    std::fs::rename(&path, directory.path().join("moved")).expect("is moved");
    assert!(follower.lines().expect("reads").is_empty());
    file.append(b"next\n").expect("is written");
    assert_eq!(follower.lines().expect("reads"), ["next"]);
}

#[tokio::test]
async fn a_disk_that_is_full_costs_records_and_no_request() {
    let metrics = Metrics::new([]).expect("metrics");
    let tasks = Tasks::new();
    let full = config(Path::new("/dev/full"), 4096, 2);
    let audit = Audit::open(&full, &metrics.meter("audit"), &tasks).expect("opens");
    for _ in 0..3 {
        audit.record(record("peter"));
    }
    drop(audit);
    ended(&tasks).await;
    assert!(
        metrics.render().contains("muster_audit_records_total{fate=\"failed\"} 3"),
        "{}",
        metrics.render()
    );
    assert!(Path::new("/dev/full").exists(), "a device is not set aside");
}

#[tokio::test]
async fn a_full_queue_costs_records_and_no_request() {
    let metrics = Metrics::new([]).expect("metrics");
    let (queue, mut stalled) = mpsc::channel(2);
    let fates = Fates::new(&metrics.meter("audit"));
    let audit = Audit(Arc::new(Shared {
        clock: Clock::manual(0),
        reads: false,
        queue: Some(queue),
        recent: Recent::default(),
        fates,
    }));
    for account in ["one", "two", "three", "four"] {
        audit.record(record(account));
    }
    assert!(
        metrics.render().contains("muster_audit_records_total{fate=\"dropped\"} 2"),
        "{}",
        metrics.render()
    );
    assert_eq!(stalled.recv().await.expect("is queued").account, "one");
    // A reader of the newest records sees those, too, that the file has lost.
    let recent = audit.recent(&Question::default());
    let accounts: Vec<_> = recent.records.iter().map(|record| &*record.account).collect();
    assert_eq!((recent.complete, accounts), (true, vec!["four", "three", "two", "one"]));
}

#[test]
fn a_file_that_cannot_be_opened_is_found_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let metrics = Metrics::new([]).expect("metrics");
    let refused = Audit::open(&config(directory.path(), 4096, 2), &metrics.meter("audit"), &Tasks::new());
    let words = refused.expect_err("a directory is no file").to_string();
    assert!(words.contains(&directory.path().display().to_string()), "{words}");
}

#[test]
fn recorded_texts_are_bounded() {
    assert_eq!(shortened("short"), "short");
    assert!(shortened(&"ä".repeat(1000)).len() <= LONGEST_TEXT);
}

#[test]
fn a_record_without_values_has_few_fields() {
    let line = serde_json::to_string(&record("")).expect("is JSON");
    assert!(!line.contains("token") && !line.contains("before"), "{line}");
    assert_eq!(serde_json::from_str::<Record>(&line).expect("is read"), record(""));
}
