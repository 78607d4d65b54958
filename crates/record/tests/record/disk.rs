//! What a killed process, a full bound and foreign files leave, and what is made of them.

use std::fs;
use std::path::{Path, PathBuf};

use defib_policy::judge::Judge;
use defib_policy::settings::Settings;
use defib_record::{Reader, RecordError, Recorded, Recorder};

use super::fleet::{direct, drive, replay, settings};

fn only_segment(directory: &Path) -> PathBuf {
    let mut segments = Reader::segments(directory).expect("segments");
    assert_eq!(segments.len(), 1);
    segments.remove(0).path
}

/// A file that ends anywhere, as a kill leaves it.
#[test]
fn a_segment_that_was_cut_anywhere_is_read_up_to_its_last_whole_frame_and_the_rest_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 20, 0, 5_000);
    drop(judge);
    let path = only_segment(directory.path());
    let whole = fs::read(&path).expect("a segment");
    let passes = replay(directory.path()).passes;
    let mut shorter = 0;
    for cut in (0..whole.len()).step_by(whole.len() / 11 + 1) {
        fs::write(&path, &whole[..cut]).expect("written");
        let found = replay(directory.path());
        assert_eq!(found.differences, 0, "cut at {cut}: {found:?}");
        assert!(found.torn == 1 || cut == 0, "cut at {cut}: {found:?}");
        shorter += usize::from(found.passes > 0 && found.passes < passes);
    }
    assert!(shorter > 3, "the frames are too large for this test");
    // A bit that turned in the middle ends the segment there.
    let mut bad = whole.clone();
    bad[whole.len() / 2] ^= 4;
    fs::write(&path, &bad).expect("written");
    let found = replay(directory.path());
    assert_eq!((found.differences, found.torn), (0, 1));
    assert!(found.passes < passes);
}

#[test]
fn the_next_process_cuts_off_what_the_killed_one_left_and_records_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 20, 0, 600);
    drop(judge);
    let path = only_segment(directory.path());
    let mut whole = fs::read(&path).expect("a segment");
    let length = whole.len();
    whole.extend([7; 33]);
    fs::write(&path, &whole).expect("written");
    let recorder = Recorder::start(settings(directory.path(), 1 << 30)).expect("a recorder");
    let torn = recorder.torn().expect("something was cut off");
    assert_eq!((torn.whole, torn.bytes), (length as u64, 33));
    let mut judge = Recorded::onto(Judge::new(Settings::default()), recorder.tape());
    drive(&mut judge, 20, 600, 1_200);
    recorder.stop();
    let found = replay(directory.path());
    assert_eq!((found.passes, found.differences, found.torn), (240, 0, 0), "{found:?}");
    assert_eq!(found.segments, [false, false], "another process is no continuation");
}

#[test]
fn the_oldest_segments_go_when_the_bound_is_reached() {
    let directory = tempfile::tempdir().expect("a directory");
    let max_bytes = 30_000;
    let mut judge = direct(directory.path(), max_bytes);
    drive(&mut judge, 20, 0, 12_000);
    drop(judge);
    let segments = Reader::segments(directory.path()).expect("segments");
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    assert!(bytes <= max_bytes, "{bytes}");
    assert!(segments[0].header.sequence > 1, "the first one has gone");
    let found = replay(directory.path());
    assert_eq!(found.differences, 0, "{found:?}");
    assert!(found.segments[1..].iter().all(|goes_on| *goes_on), "{found:?}");
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_with_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "text").expect("written");
    let refused = |path: &Path| Recorder::start(settings(path, 1 << 30)).expect_err("refused").to_string();
    assert!(refused(&file).contains("is not a directory"), "{}", refused(&file));
    assert!(refused(&file.join("below")).contains("cannot be used"), "{}", refused(&file.join("below")));
    assert!(matches!(Reader::open(directory.path()), Err(RecordError::Empty { .. })));
    assert!(matches!(Reader::open(&file), Err(RecordError::NotADirectory { .. })));
    assert!(matches!(Reader::open(&directory.path().join("none")), Err(RecordError::Directory { .. })));
}

#[test]
fn foreign_files_and_other_formats_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut judge = direct(directory.path(), 1 << 30);
    drive(&mut judge, 5, 0, 100);
    drop(judge);
    let path = only_segment(directory.path());
    let whole = fs::read(&path).expect("a segment");
    let mut other = whole.clone();
    other[8] = 99;
    fs::write(&path, &other).expect("written");
    let refused = Reader::segments(directory.path()).expect_err("another format").to_string();
    assert!(refused.contains("format 99") && refused.contains("use the defib that wrote it"), "{refused}");
    fs::write(&path, "something else altogether").expect("written");
    let refused = Reader::segments(directory.path()).expect_err("a foreign file").to_string();
    assert!(refused.contains("is not a segment"), "{refused}");
}

/// The directory goes away under the recorder: recording is lost and counted, and the judge says what it would have said.
#[test]
fn a_disk_that_fails_costs_the_recording_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("recording");
    let recorder = Recorder::start(settings(&path, 1 << 30)).expect("a recorder");
    fs::remove_dir_all(&path).expect("removed");
    let mut judge = Recorded::onto(Judge::new(Settings::default()), recorder.tape());
    drive(&mut judge, 20, 0, 60);
    let wait = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while recorder.condition().trouble.is_none() {
        assert!(std::time::Instant::now() < wait, "the failure is not told");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drive(&mut judge, 20, 60, 300);
    assert!(recorder.condition().lost > 0, "{:?}", recorder.condition());
    let mut other = Recorded::off(Judge::new(Settings::default()));
    drive(&mut other, 20, 0, 300);
    assert_eq!(judge.counts(), other.counts());
}
