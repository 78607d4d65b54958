//! Asking for a list, and reading it entry by entry.
//!
//! A list is the largest answer of an engine (a kilobyte for each container of the host, strangers included), and it is asked for in each
//! tick. The client library would collect it whole and decode all of it. Here each entry is decoded as soon as it has arrived, and the fields
//! that nobody uses are dropped, so that only the entry that is arriving is in memory as text.
//!
//! **Turns.** The full lists of a hundred engines, asked for in the same moment, would all be in memory at once, half decoded. So only a
//! few are decoded at a time, and the bytes of the others are not read meanwhile. No list waits for an engine that hangs: a list takes a
//! turn when its bytes have arrived, and gives it back when the next bytes do not come. A list that has waited for too long in total goes
//! on without a turn.
//!
//! The client library still makes the connection, sets the deadline for the head of the answer, and turns an error that the engine answers
//! into its own error type. So a list that fails is treated like any other call that fails. The caller bounds the whole, body included.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use futures_util::{Stream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{self, garbled};
use super::entry::{Entry, Sent};

/// The longest entry, in bytes, that is accepted. An engine writes about a kilobyte, and a few more where there are many labels.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The most containers that are accepted in one list, strangers included. No host runs so many.
const ENTRIES_MAX: usize = 100_000;

/// The most text that is kept of one list, in bytes. An entry keeps about a hundred.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// How many full lists are decoded at a time, in the whole process. Larger: more memory. Smaller: a machine with many cores decodes them on few.
const AT_ONCE: usize = 8;

/// Whose turn it is to decode a full list.
static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// One full list may wait for all of its turns together as long as its call may take, divided by this. A longer wait: only on a slower
/// machine are more lists decoded at once. A shorter wait: if many engines send slowly at the same time, all lists are decoded at once.
const WAIT_MAX_PARTS: u32 = 10;

/// How long a list keeps its turn while no bytes of it arrive.
pub(super) const STALL_MAX: Duration = Duration::from_millis(20);

/// How long a list keeps its turn at most. Decoding a thousand entries takes about two milliseconds.
const TURN_MAX: Duration = Duration::from_millis(200);

/// The turn of a full list: it lasts until what was decoded has been used.
pub(super) struct Turn {
    permit: Option<SemaphorePermit<'static>>,
    ends_at: Instant,
}

/// A list of containers.
pub(super) struct Listed {
    pub(super) entries: Vec<Entry>,
    /// Every entry has an id, names and labels that could be read. Only then does it follow that a container that is not in the list does
    /// not exist.
    pub(super) complete: bool,
    /// Given back when the list is dropped.
    turn: Option<Turn>,
}

impl Listed {
    /// Lets the next list be decoded, although this one is kept.
    pub(super) fn give_turn_back(&mut self) {
        self.turn = None;
    }
}

/// The containers that these filters let through, stopped ones included. `filters` is the JSON of Docker's parameter; `None`: all.
///
/// # Errors
/// The engine was not reached, refused, or sent something that is no list.
pub(super) async fn list(
    client: &Docker,
    filters: Option<&str>,
    workspace_label: &str,
    call_timeout: Duration,
) -> Result<Listed, BollardError> {
    let mut target = "/containers/json?all=true".to_owned();
    if let Some(filters) = filters {
        target.push_str("&filters=");
        target.extend(url::form_urlencoded::byte_serialize(filters.as_bytes()));
    }
    let reading = Reading::new(workspace_label);
    let body = client::get(client, target);
    if filters.is_none() {
        return read_in_turns(body, reading, &TURNS, call_timeout / WAIT_MAX_PARTS).await;
    }
    read(body, reading).await
}

/// Reads a list that is short.
async fn read<B: AsRef<[u8]>>(
    body: impl Stream<Item = Result<B, BollardError>>,
    mut reading: Reading<'_>,
) -> Result<Listed, BollardError> {
    let mut body = std::pin::pin!(body);
    while let Some(data) = body.next().await {
        reading.take(data?.as_ref())?;
    }
    reading.end(None)
}

/// Reads a list that may be long. It waits `wait_max` for its turns at most, however often it loses one because its engine sends slowly.
async fn read_in_turns<B: AsRef<[u8]>>(
    body: impl Stream<Item = Result<B, BollardError>>,
    mut reading: Reading<'_>,
    turns: &'static Semaphore,
    wait_max: Duration,
) -> Result<Listed, BollardError> {
    let mut body = std::pin::pin!(body);
    let (mut turn, mut may_wait): (Option<Turn>, Duration) = (None, wait_max);
    loop {
        let next = if let Some(Turn { permit: Some(_), ends_at }) = &turn {
            let patience = (Instant::now() + STALL_MAX).min(*ends_at);
            let Ok(next) = timeout_at(patience, body.next()).await else {
                turn = None;
                continue;
            };
            next
        } else {
            body.next().await
        };
        let Some(data) = next else { return reading.end(turn) };
        let data = data?;
        if turn.is_none() {
            let waits_since = Instant::now();
            let permit = timeout(may_wait, turns.acquire()).await.ok().and_then(Result::ok);
            may_wait = may_wait.saturating_sub(waits_since.elapsed());
            turn = Some(Turn { permit, ends_at: Instant::now() + TURN_MAX });
        }
        reading.take(data.as_ref())?;
    }
}

/// A list that is arriving: `[`, entries with commas between them, `]`.
struct Reading<'a> {
    workspace_label: &'a str,
    entries: Vec<Entry>,
    complete: bool,
    kept_bytes: usize,
    /// The beginning of an entry, which has arrived and could not be decoded yet.
    rest: Vec<u8>,
    /// The next attempt to decode waits until `rest` has this length, twice that of the last attempt. Each attempt reads the entry from its
    /// beginning, so attempts after every small part would take time that grows with the square of the entry's length.
    worth_trying_at: usize,
    expects: Expects,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expects {
    Begin,
    EntryOrEnd,
    Entry,
    CommaOrEnd,
    Nothing,
}

impl<'a> Reading<'a> {
    const fn new(workspace_label: &'a str) -> Self {
        Self {
            workspace_label,
            entries: Vec::new(),
            complete: true,
            kept_bytes: 0,
            rest: Vec::new(),
            worth_trying_at: 0,
            expects: Expects::Begin,
        }
    }

    /// Takes the next part of the answer.
    fn take(&mut self, data: &[u8]) -> Result<(), BollardError> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(data);
        if rest.len() >= self.worth_trying_at {
            let used = self.decode(&rest)?;
            rest.drain(..used);
            if rest.len() > ENTRY_BYTES_MAX {
                return Err(garbled(format!("an entry of a list is longer than {ENTRY_BYTES_MAX} bytes")));
            }
            self.worth_trying_at = rest.len() * 2;
        }
        self.rest = rest;
        Ok(())
    }

    /// Decodes the entries that have arrived completely. Returns how many bytes of `data` they took.
    fn decode(&mut self, data: &[u8]) -> Result<usize, BollardError> {
        let mut at = 0;
        while let Some(byte) = data.get(at) {
            match (byte, self.expects) {
                (b' ' | b'\n' | b'\r' | b'\t', _) => at += 1,
                (b'[', Expects::Begin) => {
                    self.expects = Expects::EntryOrEnd;
                    at += 1;
                }
                (b']', Expects::EntryOrEnd | Expects::CommaOrEnd) => {
                    self.expects = Expects::Nothing;
                    at += 1;
                }
                (b',', Expects::CommaOrEnd) => {
                    self.expects = Expects::Entry;
                    at += 1;
                }
                (b'{', Expects::EntryOrEnd | Expects::Entry) => {
                    let mut sent = serde_json::Deserializer::from_slice(&data[at..]).into_iter::<Sent<'_>>();
                    match sent.next() {
                        Some(Ok(entry)) => {
                            at += sent.byte_offset();
                            self.keep(entry.into_entry(self.workspace_label))?;
                            self.expects = Expects::CommaOrEnd;
                        }
                        Some(Err(error)) if !error.is_eof() => return Err(garbled(error.to_string())),
                        Some(Err(_)) | None => return Ok(at),
                    }
                }
                _ => return Err(garbled("what came is no list of containers".to_owned())),
            }
        }
        Ok(at)
    }

    fn keep(&mut self, entry: Entry) -> Result<(), BollardError> {
        self.kept_bytes += entry.kept_bytes();
        if self.entries.len() == ENTRIES_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            return Err(garbled(format!(
                "a list has more than {ENTRIES_MAX} containers, or more than {KEPT_BYTES_MAX} bytes of names"
            )));
        }
        self.complete &= entry.is_readable();
        self.entries.push(entry);
        Ok(())
    }

    /// Ends the list when all of the answer has arrived.
    fn end(mut self, turn: Option<Turn>) -> Result<Listed, BollardError> {
        let rest = std::mem::take(&mut self.rest);
        let used = self.decode(&rest)?;
        if used < rest.len() || self.expects != Expects::Nothing {
            return Err(garbled("the list ends in the middle".to_owned()));
        }
        Ok(Listed { entries: self.entries, complete: self.complete, turn })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Listed, String> {
        let mut reading = Reading::new("defib.workspace");
        let taken = parts.into_iter().try_for_each(|part| reading.take(part));
        taken.and_then(|()| reading.end(None)).map_err(|error| error.to_string())
    }

    fn ids(list: Result<Listed, String>) -> Vec<String> {
        list.expect("a list").entries.into_iter().map(|entry| entry.id.into()).collect()
    }

    #[test]
    fn a_list_is_read_however_it_is_cut_into_parts() {
        let text = r#" [ {"Id":"a","Names":["/x,]}"],"Labels":{"k":"[{\"\\"}} ,{"Id":"b"},{"Id":"ç"}]
"#
        .as_bytes();
        let expected = ["a", "b", "ç"];
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(ids(read([first, second])), expected, "cut at {cut}");
        }
        for size in 1..text.len() {
            assert_eq!(ids(read(text.chunks(size))), expected, "in parts of {size}");
        }
        assert!(ids(read([&b"[]"[..]])).is_empty());
    }

    #[test]
    fn what_is_no_whole_list_is_none() {
        for text in [
            "",
            "[",
            "null",
            "{}",
            "[]]",
            "[1]",
            "garbage",
            r#"[{"Id":"a"}"#,
            r#"[{"Id":"a"},"#,
            r#"[{"Id":"a"},]"#,
            r#"[{"Id":"a"}{"Id":"b"}]"#,
            r#"[{"Id":"a","#,
            r#"{"message":"x"}"#,
        ] {
            assert!(read([text.as_bytes()]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_with_an_entry_that_cannot_be_assigned_is_not_complete() {
        let complete = |text: &str| read([text.as_bytes()]).expect("a list").complete;
        assert!(complete(r#"[{"Id":"a","State":"hibernating"}]"#));
        assert!(!complete(r#"[{"Id":"a"},{"Names":["/x"]},{"Id":"b"}]"#));
    }

    #[test]
    fn what_has_no_end_is_not_collected() {
        let part = vec![b'a'; 100_000];
        let mut reading = Reading::new("l");
        reading.take(br#"[{"Id":""#).expect("the beginning");
        let parts = (0..100).take_while(|_| reading.take(&part).is_ok()).count();
        assert!((10..40).contains(&parts), "{parts} parts of an entry");

        let mut reading = Reading::new("l");
        reading.take(b"[{}").expect("the first entry");
        let entries = ",{}".repeat(1_000);
        let parts = (0..200).take_while(|_| reading.take(entries.as_bytes()).is_ok()).count();
        assert_eq!(parts, 99, "thousands of entries");
    }

    fn arriving(
        text: &'static str,
        turns: &'static Semaphore,
        wait_max: Duration,
        ends: bool,
    ) -> impl Future<Output = Result<Listed, BollardError>> {
        let whole = stream::iter([Ok(text.as_bytes())]);
        let never = stream::iter((!ends).then_some(())).then(|()| std::future::pending());
        read_in_turns(whole.chain(never), Reading::new("l"), turns, wait_max)
    }

    #[tokio::test]
    async fn a_list_that_keeps_its_turn_waiting_gives_it_back() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let hour = Duration::from_secs(3_600);
        let (hangs, comes) =
            (arriving(r#"[{"Id":"a"}"#, &ONE, hour, false), arriving(r#"[{"Id":"b"}]"#, &ONE, hour, true));
        let listed = async {
            tokio::select! {
                biased; // the one that hangs takes the turn first
                _ = hangs => panic!("it never ends"),
                listed = comes => listed.expect("a list"),
            }
        };
        let listed = timeout(Duration::from_secs(60), listed).await.expect("its turn comes");
        assert_eq!(ONE.available_permits(), 0, "the turn lasts as long as the list is kept");
        assert_eq!(ids(Ok(listed)), ["b"]);
        assert_eq!(ONE.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_list_that_has_waited_for_long_is_read_out_of_turn() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let _others = ONE.acquire().await.expect("a turn");
        let listed = arriving(r#"[{"Id":"b"}]"#, &ONE, Duration::from_millis(1), true).await;
        assert_eq!(ids(listed.map_err(|error| error.to_string())), ["b"]);
    }

    /// Others hold the only turn for a tenth of a second each, and one engine sends its list in forty parts with a pause before each.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_arrives_slowly_waits_for_others_once_and_not_before_each_part() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let pause = 2 * STALL_MAX;
        let parts = (0..40).map(|n| {
            if n == 0 {
                "["
            } else if n == 39 {
                "]"
            } else {
                " "
            }
        });
        let slow = stream::iter(parts).then(|part| async move {
            tokio::time::sleep(pause).await;
            Ok(part.as_bytes())
        });
        let others = async {
            loop {
                let turn = ONE.acquire().await.expect("a turn");
                tokio::time::sleep(Duration::from_millis(100)).await;
                drop(turn);
            }
        };
        let (wait_max, begun) = (Duration::from_millis(300), Instant::now());
        tokio::select! {
            () = others => {}
            listed = read_in_turns(slow, Reading::new("l"), &ONE, wait_max) => {
                assert_eq!(ids(listed.map_err(|error| error.to_string())), [""; 0]);
            }
        }
        assert!(begun.elapsed() <= 40 * pause + wait_max + STALL_MAX, "{:?}", begun.elapsed());
    }

    #[test]
    fn an_entry_in_tiny_parts_is_not_decoded_over_and_over() {
        let text = format!(r#"[{{"Id":"a","Names":["{}"]}}]"#, "n".repeat(100_000)).into_bytes();
        let mut reading = Reading::new("l");
        let mut tries = 0;
        for byte in text.chunks(1) {
            let before = reading.worth_trying_at;
            reading.take(byte).expect("a byte");
            tries += usize::from(reading.worth_trying_at != before);
        }
        assert!(tries < 40, "{tries} tries");
        assert_eq!(ids(reading.end(None).map_err(|error| error.to_string())), ["a"]);
    }
}
