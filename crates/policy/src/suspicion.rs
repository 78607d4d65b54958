//! Suspicions: reports by callers who could not reach a workspace.
//!
//! A suspicion only asks for a sample; it never counts as a miss. Its one use as evidence is as the second witness against a
//! wedged workspace, and there distinct reporters count, not reports.
//!
//! Who is a reporter? The name is the caller's text, so it is believed only as far as it can be checked. The database login that
//! reported is recorded beside it by the function that takes the report, and cannot be chosen by the caller. So:
//!
//! - A login that uses more than a handful of names for one workspace within two windows (request ids, pods that come and go) is one
//!   reporter there.
//! - Names that have only ever accused one workspace count once for their login: to invent a name is free, to be known by others costs
//!   something.
//! - The word of two lasts only as long as that of the second: what runs is not restarted at once because a login has just begun to
//!   use another name, or because the network of another caller has just broken, before it is seen to accuse everybody.
//! - A reporter who accuses a large part of those whose reports come to this replica is the broken one, and is not counted: one caller
//!   with a broken network accuses everybody it talks to. Whoever was accused and shows a sign of life still counts for that, or else
//!   only the silent ones would, which are few.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::id::WorkspaceId;
use crate::moment::Moment;

/// Workspaces with remembered suspicions, at most.
const WORKSPACES_MAX: usize = 20_000;
/// Accusations remembered for one workspace, at most: two are enough to be distinct, the rest tell the broken ones apart.
const ACCUSATIONS_MAX: usize = 8;
/// A login that uses more names than this for one workspace within two windows is taken for one reporter there.
const NAMES_MAX: usize = 5;
/// A reporter who accuses more workspaces than this, and more than a quarter of the fleet, is the broken one.
const BROKEN_REPORTER_MIN: usize = 5;

/// Whether a report is from so long before our start that it describes a fleet that we never saw: it is ignored.
#[must_use]
pub fn is_too_old(reported_at: Moment, started: Moment, dead_window: Duration) -> bool {
    reported_at < started.minus(dead_window)
}

/// One report against a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// The name that the caller gives itself. Anybody may write anything here.
    pub reporter: &'a str,
    /// The database login that reported, as the database knows it.
    pub login: &'a str,
    /// When.
    pub at: Moment,
}

/// How close two reports must be to belong together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// After a silence of more than this a reporter begins a new accusation.
    pub(crate) lapse: Duration,
    /// Two windows of the workspace: names that a login uses within this are counted together.
    pub(crate) spell: Duration,
}

/// The accusations of one reporter against one workspace.
#[derive(Clone, Debug)]
struct Accusation {
    login: Arc<str>,
    /// `None` stands for all the names of a login that uses too many of them.
    name: Option<Arc<str>>,
    first: Moment,
    last: Moment,
    /// The workspace has shown a sign of life since. It says nothing against the workspace any more, and something about the reporter.
    refuted: bool,
}

impl Accusation {
    /// Returns whether it stands again after it was refuted.
    fn renew(&mut self, at: Moment, lapse: Duration) -> bool {
        if self.refuted || at > self.last + lapse {
            self.first = at;
        }
        self.last = self.last.max(at);
        std::mem::take(&mut self.refuted)
    }

    fn span(&self) -> Duration {
        self.last - self.first
    }
}

/// What one login does to the fleet, counted as accusations come and go: a flood must not make every look at one workspace a walk
/// over all.
#[derive(Debug, Default)]
struct Login {
    /// How many workspaces it has lately accused, under whatever names.
    accuses: usize,
    names: HashMap<Arc<str>, Name>,
}

#[derive(Debug, Default)]
struct Name {
    /// How many workspaces it has lately accused.
    accuses: usize,
    /// Against how many of them its word stands, because they have shown no sign of life since.
    stands: usize,
    /// It has accused two workspaces at once, at some time since it was first heard of.
    known: bool,
}

/// The recent suspicions, bounded in number and in time.
#[derive(Debug, Default)]
pub struct SuspicionLog {
    accused: HashMap<WorkspaceId, Vec<Accusation>>,
    logins: HashMap<Arc<str>, Login>,
}

/// What the suspicions against a workspace amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accused {
    /// Distinct reporters who are not discounted.
    pub reporters: u32,
    /// From the first report of the second of them to the last of any; of one alone, from its first to its last. Of two names of one
    /// login: as long as its second name has been accusing.
    pub over: Duration,
}

impl SuspicionLog {
    /// Takes note of one report.
    pub(crate) fn report(&mut self, id: &WorkspaceId, report: Report<'_>, pace: Pace) {
        if !self.accused.contains_key(id) && self.accused.len() >= WORKSPACES_MAX {
            return;
        }
        let Self { accused, logins } = self;
        let accusations = accused.entry(id.clone()).or_default();
        let of_login = |accusation: &Accusation| *accusation.login == *report.login;
        let same = |accusation: &&mut Accusation| {
            of_login(accusation) && accusation.name.as_deref().is_none_or(|name| name == report.reporter)
        };
        if let Some(known) = accusations.iter_mut().find(same) {
            if known.renew(report.at, pace.lapse) {
                stand_again(logins, known);
            }
            return;
        }
        let lately = |it: &&Accusation| of_login(it) && report.at - it.last <= pace.spell;
        if accusations.iter().filter(lately).count() >= NAMES_MAX {
            merge_names(accusations, logins, report.login);
            if let Some(merged) = accusations.iter_mut().find(|it| of_login(it)) {
                merged.renew(report.at, pace.lapse);
            }
            return;
        }
        if accusations.len() >= ACCUSATIONS_MAX {
            forget_refuted(accusations, logins);
        }
        if accusations.len() >= ACCUSATIONS_MAX {
            make_room(accusations, logins);
        }
        if accusations.len() >= ACCUSATIONS_MAX {
            return;
        }
        let first_of_login = !accusations.iter().any(of_login);
        let (login, name) = note_name(logins, report, first_of_login);
        accusations.push(Accusation { login, name: Some(name), first: report.at, last: report.at, refuted: false });
    }

    /// What stands against `id`, counting reports of the last `within`, where the reports about `watched` workspaces come here.
    #[must_use]
    pub fn against(&self, id: &WorkspaceId, now: Moment, within: Duration, watched: usize) -> Accused {
        let Some(accusations) = self.accused.get(id) else { return Accused::default() };
        let mut counted: Vec<Accusation> = Vec::new();
        for accusation in accusations.iter().filter(|it| !it.refuted && now - it.last <= within) {
            let standing = self.standing(accusation);
            if is_broken(standing.accuses, watched) {
                continue;
            }
            let merged = |it: &&mut Accusation| it.name.is_none() && it.login == accusation.login;
            if standing.known {
                counted.push(accusation.clone());
            } else if let Some(merged) = counted.iter_mut().find(merged) {
                merged.first = merged.first.min(accusation.first);
                merged.last = merged.last.max(accusation.last);
            } else {
                counted.push(Accusation { name: None, ..accusation.clone() });
            }
        }
        let one_login = counted.iter().all(|accusation| accusation.login == counted[0].login);
        let last = counted.iter().map(|accusation| accusation.last).max().unwrap_or(Moment::ZERO);
        // Of one login, how long a name has itself been accusing; else how long ago it began.
        let mut spans: Vec<Duration> =
            counted.iter().map(|it| if one_login { it.span() } else { last - it.first }).collect();
        spans.sort_unstable_by_key(|span| std::cmp::Reverse(*span));
        let over = spans.get(1).or(spans.first()).copied().unwrap_or_default();
        Accused { reporters: u32::try_from(counted.len()).unwrap_or(u32::MAX), over }
    }

    /// Whether a reporter is known for more than this one accusation, and how many workspaces it accuses. Names that are not known
    /// are as one with their login. Old accusations count here until they are pruned: a broken reporter is believed again a little
    /// later.
    fn standing(&self, accusation: &Accusation) -> Name {
        let Some(login) = self.logins.get(&accusation.login) else { return Name::default() };
        match accusation.name.as_ref().and_then(|name| login.names.get(name)) {
            Some(name) if name.known => Name { ..*name },
            _ => Name { accuses: login.accuses, ..Name::default() },
        }
    }

    /// A workspace shows a sign of life: nothing stands against it any more. Who accused it is remembered.
    pub fn refute(&mut self, id: &WorkspaceId) {
        let Some(accusations) = self.accused.get_mut(id) else { return };
        for accusation in accusations {
            if !std::mem::replace(&mut accusation.refuted, true)
                && let Some(name) = name_of(&mut self.logins, accusation)
            {
                name.falls();
            }
        }
    }

    /// Forgets a workspace (it lives another life, or is watched no more).
    pub fn clear(&mut self, id: &WorkspaceId) {
        let Some(mut accusations) = self.accused.remove(id) else { return };
        while let Some(accusation) = accusations.pop() {
            withdraw(&mut self.logins, &accusation, &accusations);
        }
    }

    /// Drops what is older than `within`. What was refuted is kept for a quarter longer: whoever lied about everybody must not be
    /// believed of the one that is silent while that is remembered.
    pub fn prune(&mut self, now: Moment, within: Duration) {
        let Self { accused, logins } = self;
        accused.retain(|_, accusations| {
            let mut n = 0;
            while n < accusations.len() {
                let kept = if accusations[n].refuted { within + within / 4 } else { within };
                if now - accusations[n].last <= kept {
                    n += 1;
                } else {
                    let old = accusations.swap_remove(n);
                    withdraw(logins, &old, accusations);
                }
            }
            !accusations.is_empty()
        });
    }
}

fn is_broken(accuses: usize, watched: usize) -> bool {
    accuses > BROKEN_REPORTER_MIN && 4 * accuses > watched
}

/// Counts one more workspace that a name accuses; `first_of_login` says that its login did not accuse this one before.
fn note_name(logins: &mut HashMap<Arc<str>, Login>, report: Report<'_>, first_of_login: bool) -> (Arc<str>, Arc<str>) {
    let key = logins.get_key_value(report.login).map_or_else(|| report.login.into(), |(key, _)| Arc::clone(key));
    let login = logins.entry(Arc::clone(&key)).or_default();
    login.accuses += usize::from(first_of_login);
    let names = &mut login.names;
    let text = names.get_key_value(report.reporter).map_or_else(|| report.reporter.into(), |(it, _)| Arc::clone(it));
    let name = names.entry(Arc::clone(&text)).or_default();
    name.accuses += 1;
    name.rises();
    (key, text)
}

impl Name {
    /// Its word stands against one more workspace.
    fn rises(&mut self) {
        self.stands += 1;
        self.known |= self.stands >= 2;
    }

    /// Its word stands against one workspace less.
    fn falls(&mut self) {
        self.stands -= 1;
        self.known &= self.stands > 0;
    }
}

fn name_of<'a>(logins: &'a mut HashMap<Arc<str>, Login>, accusation: &Accusation) -> Option<&'a mut Name> {
    logins.get_mut(&accusation.login)?.names.get_mut(accusation.name.as_ref()?)
}

/// An accusation that was refuted is made again.
fn stand_again(logins: &mut HashMap<Arc<str>, Login>, accusation: &Accusation) {
    if let Some(name) = name_of(logins, accusation) {
        name.rises();
    }
}

/// Frees the places of those whose word does not stand.
fn forget_refuted(accusations: &mut Vec<Accusation>, logins: &mut HashMap<Arc<str>, Login>) {
    let mut n = 0;
    while n < accusations.len() {
        if accusations[n].refuted {
            let old = accusations.swap_remove(n);
            withdraw(logins, &old, accusations);
        } else {
            n += 1;
        }
    }
}

/// Takes all the names of a login against one workspace for one reporter.
fn merge_names(accusations: &mut Vec<Accusation>, logins: &mut HashMap<Arc<str>, Login>, login: &str) {
    let (names, rest): (Vec<_>, Vec<_>) = std::mem::take(accusations).into_iter().partition(|it| *it.login == *login);
    *accusations = rest;
    let refuted = names.iter().all(|it| it.refuted);
    let first = names.iter().filter(|it| it.refuted == refuted).map(|it| it.first).min();
    let last = names.iter().map(|it| it.last).max();
    let (Some(any), Some(first), Some(last)) = (names.first(), first, last) else { return };
    accusations.push(Accusation { login: Arc::clone(&any.login), name: None, first, last, refuted });
    for accusation in &names {
        withdraw(logins, accusation, accusations);
    }
}

/// Frees places for another login by merging the names of the one that has the most of them, if it has several.
fn make_room(accusations: &mut Vec<Accusation>, logins: &mut HashMap<Arc<str>, Login>) {
    let names_of = |login: &Arc<str>| accusations.iter().filter(|it| it.login == *login).count();
    let most = accusations.iter().max_by_key(|it| names_of(&it.login)).map(|it| Arc::clone(&it.login));
    if let Some(login) = most.filter(|login| names_of(login) > 1) {
        merge_names(accusations, logins, &login);
    }
}

/// An accusation stands no more; `rest` are the others against the same workspace.
fn withdraw(logins: &mut HashMap<Arc<str>, Login>, accusation: &Accusation, rest: &[Accusation]) {
    let Some(login) = logins.get_mut(&accusation.login) else { return };
    if let Some(text) = &accusation.name
        && let Some(name) = login.names.get_mut(text)
    {
        name.accuses -= 1;
        if !accusation.refuted {
            name.falls();
        }
        if name.accuses == 0 {
            login.names.remove(text);
        }
    }
    if !rest.iter().any(|it| it.login == accusation.login) {
        login.accuses -= 1;
    }
    if login.accuses == 0 {
        logins.remove(&accusation.login);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(600);
    const PACE: Pace = Pace { lapse: WITHIN, spell: Duration::from_secs(150) };

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    /// One report; the name is given as `login/name`.
    fn report(log: &mut SuspicionLog, id: &str, who: &str, seconds: u64) {
        let (login, reporter) = who.split_once('/').expect("login/name");
        log.report(&id.into(), Report { reporter, login, at: at(seconds) }, PACE);
    }

    fn against(log: &SuspicionLog, id: &str, seconds: u64) -> (u32, u64) {
        let accused = log.against(&id.into(), at(seconds), WITHIN, 100);
        (accused.reporters, accused.over.as_secs())
    }

    #[test]
    fn a_report_from_more_than_a_window_before_our_start_is_too_old() {
        let window = Duration::from_secs(60);
        assert!(is_too_old(at(39), at(100), window));
        assert!(!is_too_old(at(40), at(100), window) && !is_too_old(at(200), at(100), window));
    }

    /// Two callers with broken networks, of two logins, accused everybody. All but a few showed a sign of life at each look, so that only
    /// the silent ones were counted, and those that ran were restarted.
    #[test]
    fn one_that_accuses_everybody_is_broken_though_all_of_them_but_one_are_well() {
        let mut log = SuspicionLog::default();
        for (n, second) in (0..26).zip(0..) {
            report(&mut log, &format!("w{n}"), "one/proxy", second);
            report(&mut log, &format!("w{n}"), "two/proxy", second);
            if n > 0 {
                log.refute(&format!("w{n}").as_str().into());
                assert_eq!(against(&log, &format!("w{n}"), 30), (0, 0));
            }
            assert_eq!(against(&log, "w0", 30).0, if n < 25 { 2 } else { 0 }, "after {n}");
        }
        log.prune(at(605), WITHIN);
        assert_eq!(against(&log, "w25", 605), (0, 0), "a sign of life is not taken back");
        report(&mut log, "w0", "one/proxy", 620);
        report(&mut log, "w0", "two/proxy", 620);
        log.prune(at(750), WITHIN);
        assert_eq!(against(&log, "w0", 750).0, 0, "they are remembered for a quarter longer than they count");
        log.prune(at(760), WITHIN);
        assert_eq!(against(&log, "w0", 760).0, 2);
        log.prune(at(2_000), WITHIN);
        assert!(log.logins.is_empty() && log.accused.is_empty());
    }

    #[test]
    fn one_that_is_accused_again_after_a_sign_of_life_is_accused_from_then_on() {
        let mut log = SuspicionLog::default();
        for second in [0, 50] {
            report(&mut log, "w", "one/proxy", second);
            report(&mut log, "w", "two/proxy", second);
        }
        assert_eq!(against(&log, "w", 50), (2, 50));
        log.refute(&"w".into());
        log.refute(&"w".into());
        report(&mut log, "w", "one/proxy", 60);
        report(&mut log, "w", "two/proxy", 80);
        report(&mut log, "w", "one/proxy", 100);
        assert_eq!(against(&log, "w", 100), (2, 20));
        report(&mut log, "v", "one/a", 80);
        log.refute(&"v".into());
        report(&mut log, "w", "one/a", 90);
        assert!(!log.logins["one"].names["a"].known, "its word against the other does not stand");
        log.clear(&"w".into());
        log.clear(&"v".into());
        assert!(log.logins.is_empty());
    }

    #[test]
    fn whoever_was_refuted_makes_room_for_another() {
        let mut log = SuspicionLog::default();
        for n in 0..ACCUSATIONS_MAX {
            report(&mut log, "w", &format!("login{n}/proxy"), 0);
        }
        log.refute(&"w".into());
        report(&mut log, "w", "another/proxy", 1);
        assert_eq!((against(&log, "w", 1).0, log.logins.len()), (1, 1));
    }

    #[test]
    fn distinct_reporters_count_and_repetitions_do_not() {
        let mut log = SuspicionLog::default();
        for second in 0..50 {
            report(&mut log, "w", "one/proxy", second);
        }
        assert_eq!(against(&log, "w", 50), (1, 49));
        report(&mut log, "w", "two/proxy", 60);
        assert_eq!(against(&log, "w", 60), (2, 0), "the same name of another login is another reporter");
        report(&mut log, "w", "one/proxy", 90);
        assert_eq!(against(&log, "w", 90), (2, 30), "since the second has spoken");
    }

    /// Seen from outside: a proxy that reported under its request ids was two reporters, and a workspace that ran was restarted.
    #[test]
    fn names_that_only_ever_accuse_one_workspace_count_once_for_their_login() {
        let mut log = SuspicionLog::default();
        for second in [0, 100, 200] {
            report(&mut log, "w", "proxy/a", second);
            report(&mut log, "w", "proxy/b", second);
        }
        assert_eq!(against(&log, "w", 200), (1, 200));
        report(&mut log, "v", "proxy/a", 200);
        assert_eq!(against(&log, "w", 200), (2, 200), "one is known by another accusation");
        log.clear(&"v".into());
        assert_eq!(against(&log, "w", 200), (2, 200), "and has been ever since");
        log.clear(&"w".into());
        report(&mut log, "w", "proxy/a", 210);
        report(&mut log, "w", "proxy/b", 210);
        assert_eq!(against(&log, "w", 210), (1, 0), "it was forgotten with its last accusation");
    }

    #[test]
    fn more_than_a_handful_of_names_within_two_windows_are_one_reporter() {
        for (apart, reporters) in [(30, 1), (40, 6)] {
            let mut log = SuspicionLog::default();
            for n in 0..6 {
                let (who, second) = (format!("proxy/request-{n}"), n * apart);
                report(&mut log, "v", &who, second);
                report(&mut log, "w", &who, second);
            }
            assert_eq!(against(&log, "w", 200).0, reporters, "six names, {apart} s apart");
        }
        let mut log = SuspicionLog::default();
        for n in 0..2_000 {
            report(&mut log, "w", &format!("proxy/request-{n}"), n / 10);
        }
        report(&mut log, "w", "other/proxy", 200);
        assert_eq!(against(&log, "w", 200), (2, 0), "and do not keep others from being heard");
        assert_eq!(log.logins["proxy"].names.len(), 0, "nor are they remembered one by one");
    }

    #[test]
    fn the_word_of_one_login_lasts_as_long_as_that_of_its_second_name() {
        let mut log = SuspicionLog::default();
        for second in [0, 100, 200] {
            report(&mut log, "v", "proxy/a", second);
            report(&mut log, "w", "proxy/a", second);
        }
        for second in [190, 200] {
            report(&mut log, "v", "proxy/b", second);
            report(&mut log, "w", "proxy/b", second);
        }
        assert_eq!(against(&log, "w", 200), (2, 10));
        report(&mut log, "w", "other/proxy", 200);
        assert_eq!(against(&log, "w", 200), (3, 10), "nor is another login believed at once");
        report(&mut log, "w", "other/proxy", 320);
        assert_eq!(against(&log, "w", 320), (3, 130));
    }

    #[test]
    fn many_logins_find_room_and_one_with_many_names_makes_it() {
        let mut log = SuspicionLog::default();
        for n in 0..5 {
            report(&mut log, "w", &format!("many/{n}"), n);
        }
        for n in 0..6 {
            report(&mut log, "w", &format!("login-{n}/proxy"), 5);
        }
        assert_eq!(against(&log, "w", 5).0, 7, "the five names are one");
        for n in 6..20 {
            report(&mut log, "w", &format!("login-{n}/proxy"), 5);
        }
        assert_eq!(log.accused[&WorkspaceId::from("w")].len(), ACCUSATIONS_MAX);
        log.clear(&"w".into());
        assert!(log.logins.is_empty(), "{:?}", log.logins);
    }

    #[test]
    fn a_reporter_who_was_content_for_long_begins_anew() {
        for (again, over) in [(160, 160), (161, 0)] {
            let mut log = SuspicionLog::default();
            for second in [0, again] {
                let pace = Pace { lapse: Duration::from_secs(160), ..PACE };
                log.report(&"w".into(), Report { reporter: "proxy", login: "proxy", at: at(second) }, pace);
            }
            assert_eq!(against(&log, "w", again).1, over, "{again}");
        }
    }

    #[test]
    fn a_reporter_who_accuses_a_large_part_of_the_fleet_is_discounted() {
        for name in ["broken", "request-"] {
            let mut log = SuspicionLog::default();
            let ids: Vec<WorkspaceId> = (0..26).map(|n| WorkspaceId::from(format!("w{n}"))).collect();
            for (n, id) in ids.iter().enumerate() {
                let who = if name == "broken" { "proxy/broken".to_owned() } else { format!("proxy/{name}{n}") };
                report(&mut log, id.as_str(), &who, 0);
            }
            report(&mut log, "w0", "other/honest", 1);
            let reporters = |watched| log.against(&ids[0], at(1), WITHIN, watched).reporters;
            assert_eq!(reporters(100), 1, "{name}: 26 of 100 is more than a quarter");
            assert_eq!(reporters(104), 2, "{name}: 26 of 104 is not");
        }
        let mut small = SuspicionLog::default();
        for n in 0..5 {
            report(&mut small, &format!("w{n}"), "a/proxy", 0);
        }
        assert_eq!(small.against(&"w0".into(), at(1), WITHIN, 6).reporters, 1, "five are too few to call it broken");
    }

    #[test]
    fn old_reports_count_for_nothing_and_are_dropped() {
        let (mut log, id) = (SuspicionLog::default(), WorkspaceId::from("w"));
        report(&mut log, "w", "a/a", 0);
        assert_eq!(log.against(&id, at(600), WITHIN, 10).reporters, 1);
        assert_eq!(log.against(&id, at(601), WITHIN, 10).reporters, 0);
        log.prune(at(600), WITHIN);
        assert_eq!((log.accused.len(), log.logins["a"].accuses), (1, 1));
        report(&mut log, "w", "a/b", 1);
        log.prune(at(601), WITHIN);
        assert_eq!((log.logins["a"].accuses, log.logins["a"].names.len()), (1, 1), "the younger name stands");
        log.prune(at(602), WITHIN);
        assert!(log.accused.is_empty() && log.logins.is_empty());
    }

    #[test]
    fn the_log_is_bounded() {
        let mut log = SuspicionLog::default();
        for n in 0..(WORKSPACES_MAX + 10) {
            report(&mut log, &format!("w{n}"), "a/a", 0);
        }
        assert_eq!((log.accused.len(), log.logins["a"].accuses), (WORKSPACES_MAX, WORKSPACES_MAX));
        log.clear(&"w0".into());
        assert_eq!((log.accused.len(), log.logins["a"].names["a"].accuses), (WORKSPACES_MAX - 1, WORKSPACES_MAX - 1));
    }
}
