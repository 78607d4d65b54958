//! A replay says what was said, from any segment on.

use defib_policy::judge::Judge;
use defib_policy::settings::Settings;
use defib_record::told::{self, Told};
use defib_record::{Item, POLICY, Reader};

use super::changes::{self, Reads};
use super::fleet::{calls, direct, drive, replay, replay_without, settings};

#[test]
fn a_replay_says_what_was_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 20, 0, 600);
    drop(judge);
    let found = replay(directory.path());
    assert_eq!((found.passes, found.differences), (120, 0), "{found:?}");
    assert!(found.told > 5 && found.restarts > 0, "the first workspace died: {found:?}");
    assert_eq!(found.segments, [false]);
}

#[test]
fn a_replay_with_other_settings_says_something_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 20, 0, 600);
    drop(judge);
    let mut reader = Reader::open(directory.path()).expect("a recording");
    let mut other = Judge::new(Settings { dead_threshold: 9, ..Settings::default() });
    let mut differences = 0;
    while let Some(item) = reader.next_item().expect("it can be read") {
        let Item::Call(call) = item else { continue };
        differences += usize::from(told::tell(&mut other, reader.scene(), &call).differs);
    }
    assert!(differences > 0, "the digest tells nothing");
}

#[test]
fn each_segment_can_be_replayed_without_the_ones_before_it() {
    let directory = tempfile::tempdir().expect("a directory");
    // Small segments: the bound is shared out to sixteen.
    let mut judge = direct(directory.path(), 60_000);
    drive(&mut judge, 20, 0, 12_000);
    drop(judge);
    let segments = Reader::segments(directory.path()).expect("segments");
    assert!(segments.len() > 3, "{}", segments.len());
    assert!(segments.iter().all(|segment| segment.header.policy == POLICY));
    for segment in &segments[..3] {
        std::fs::remove_file(&segment.path).expect("it can be removed");
        let found = replay(directory.path());
        assert_eq!(found.differences, 0, "from {}: {found:?}", segment.path.display());
    }
}

/// Reads of what has changed, and passes over those whom something concerns.
#[test]
fn a_replay_judges_whom_the_daemon_judged_and_calls_whom_it_called() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    changes::drive(&mut judge, Reads::Changes, 24, 1_200);
    drop(judge);
    let found = replay(directory.path());
    assert_eq!((found.passes, found.differences), (478, 0), "{found:?}");
    assert!(found.left_out > 2_000, "passes looked at everybody: {found:?}");
    assert!(found.called > 100 && found.told > 8 && found.restarts > 0, "{found:?}");
}

#[test]
fn a_call_that_is_missing_from_a_recording_of_changes_is_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    changes::drive(&mut judge, Reads::Changes, 24, 1_200);
    drop(judge);
    let without = |is_left_out: fn(&Told) -> bool| replay_without(directory.path(), is_left_out).differences;
    assert!(without(|call| matches!(call, Told::Stir { .. })) > 0);
    assert!(without(|call| matches!(call, Told::Changes { .. })) > 0);
    assert!(without(|call| matches!(call, Told::Changes { gone, .. } if !gone.is_empty())) > 0);
}

#[test]
fn a_segment_of_changes_can_be_replayed_without_the_ones_before_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 60_000);
    changes::drive(&mut judge, Reads::Changes, 24, 60_000);
    drop(judge);
    let segments = Reader::segments(directory.path()).expect("segments");
    assert!(segments.len() > 3, "{}", segments.len());
    for segment in &segments[..3] {
        std::fs::remove_file(&segment.path).expect("it can be removed");
        let found = replay(directory.path());
        assert_eq!(found.differences, 0, "from {}: {found:?}", segment.path.display());
    }
}

#[test]
fn a_week_of_a_thousand_workspaces_takes_less_than_a_gibibyte() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 20, 0, 3_600);
    drop(judge);
    let bytes: u64 = Reader::segments(directory.path()).expect("segments").iter().map(|segment| segment.bytes).sum();
    // Twenty for an hour; a thousand for a week are 8,400 times that.
    assert!(bytes * 8_400 < 1 << 30, "{bytes} bytes for 20 workspace-hours");
}

#[test]
fn another_daemon_is_kept_out_and_what_it_would_destroy_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = direct(directory.path(), 1 << 30);
    let second = defib_record::DirectTape::start(settings(directory.path(), 1 << 30));
    let refused = second.expect_err("it is in use").to_string();
    assert!(refused.contains("another defib records into"), "{refused}");
    drop(first);
    assert!(defib_record::DirectTape::start(settings(directory.path(), 1 << 30)).is_ok());
}

/// A segment of the present format that is kept in the repository. If this fails, a value in the calls has changed: count FORMAT up, so that older
/// segments are refused by name instead of being misread, and write it anew with `UPDATE_GOLDEN=1`.
#[test]
fn a_recording_of_this_format_is_read_whoever_wrote_it() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&golden);
        let mut judge = direct(&golden, 1 << 30);
        drive(&mut judge, 3, 0, 300);
        drop(judge);
        std::fs::remove_file(golden.join("lock")).expect("the lock");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 3, 0, 300);
    drop(judge);
    assert_eq!(calls(&golden), calls(directory.path()));
    assert_eq!(Reader::segments(&golden).expect("segments")[0].header.settings, Settings::default());
}
