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
//! - Names that have only ever accused one workspace count as one for their login. A name that somebody has just made up has accused nobody
//!   else yet; one that reports about several workspaces is a real caller.
//! - Two reporters agree only for as long as both of them go on accusing. So a running workspace is not restarted at once when a login has
//!   just begun to use another name, or when the network of a second caller has just broken and it is not yet seen to accuse everybody; and
//!   what a first caller said once, long ago, is not what a second one says now.
//! - A reporter who accuses a large part of the workspaces whose reports come to this replica is not counted: a caller with a broken
//!   network accuses everybody it talks to. Accusations of workspaces that have shown a sign of life since still count for this. Without
//!   them only the few silent ones would, and the reporter would never stand out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::WorkspaceId;
use crate::moment::Moment;

/// For how many workspaces suspicions are remembered, at most.
const WORKSPACES_MAX: usize = 20_000;
/// Accusations remembered for one workspace, at most: two are enough to be distinct, the rest tell the broken ones apart.
const ACCUSATIONS_MAX: usize = 8;
/// A login that uses more names than this for one workspace within two windows is taken for one reporter there.
const NAMES_MAX: usize = 5;
/// A reporter who accuses more workspaces than this, and more than a quarter of the fleet, is the broken one.
const BROKEN_REPORTER_MIN: usize = 5;

/// Whether a report was made so long before our start that it describes a fleet that we never saw. Such a report is ignored.
#[must_use]
pub fn is_too_old(reported_at: Moment, started: Moment, dead_window: Duration) -> bool {
    reported_at < started.minus(dead_window)
}

/// One report against a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// The name that the caller gives itself. Anybody may write anything here.
    pub reporter: &'a str,
    /// The login that reported, as the database knows it.
    pub login: &'a str,
    /// When it was reported.
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
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Accusation {
    login: Arc<str>,
    /// The name of the reporter; `None` stands for all names of a login that uses too many of them.
    name: Option<Arc<str>>,
    first: Moment,
    last: Moment,
    /// The workspace has shown a sign of life since. So the accusation no longer counts against the workspace, but still counts when it is
    /// asked whether the reporter is broken.
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

    /// For how long both have been accusing.
    fn overlap(&self, other: &Self) -> Duration {
        self.last.min(other.last) - self.first.max(other.first)
    }
}

/// How many workspaces a login accuses. It is counted as accusations come and go, so that judging one workspace never takes a walk over all
/// of them, even during a flood.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Login {
    /// How many workspaces it has lately accused, under whatever names.
    accuses: usize,
    names: HashMap<Arc<str>, Name>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Name {
    /// How many workspaces it has lately accused.
    accuses: usize,
    /// Against how many of them its word stands, because they have shown no sign of life since.
    stands: usize,
    /// Whether it has accused two workspaces at the same time since it was first heard of.
    known: bool,
}

/// The recent suspicions, bounded in number and in time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SuspicionLog {
    accused: HashMap<WorkspaceId, Vec<Accusation>>,
    logins: HashMap<Arc<str>, Login>,
}

/// What the suspicions against a workspace amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accused {
    /// Distinct reporters who are not discounted.
    pub reporters: u32,
    /// For how long two of them have agreed: for as long as both have been accusing. If there is one reporter, from its first report to its
    /// last.
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

    /// What stands against `id` in the reports of the last `within`. `watched` is the number of workspaces whose reports come to this
    /// replica.
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
        let over = agreed_for(&counted);
        Accused { reporters: u32::try_from(counted.len()).unwrap_or(u32::MAX), over }
    }

    /// Whether a reporter is known for more than this one accusation, and how many workspaces it accuses. A name that is not known counts
    /// together with its login. Old accusations count here until they are pruned, so a reporter that was broken is believed again a little
    /// later than its accusations expire.
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

    /// Drops what is older than `within`. Refuted accusations are kept for a quarter longer. Otherwise a reporter that wrongly accused
    /// everybody would look honest just while its accusation of a silent workspace still stands.
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

/// For how long two reporters have agreed or, if there is one reporter, for how long it has been accusing.
///
/// Two of them agree from when the second of them began until the first of them fell silent. What a login says under all of its names counts
/// as one when it is compared with another login, and each name for itself when it is compared with another name of that login.
fn agreed_for(counted: &[Accusation]) -> Duration {
    if let [alone] = counted {
        return alone.span();
    }
    let mut longest = Duration::ZERO;
    let mut logins: Vec<Accusation> = Vec::new();
    for (place, it) in counted.iter().enumerate() {
        let same_login = |other: &&Accusation| other.login == it.login;
        longest =
            counted[..place].iter().filter(same_login).map(|other| it.overlap(other)).fold(longest, Duration::max);
        match logins.iter_mut().find(|other| other.login == it.login) {
            Some(login) => (login.first, login.last) = (login.first.min(it.first), login.last.max(it.last)),
            None => logins.push(it.clone()),
        }
    }
    for (place, it) in logins.iter().enumerate() {
        longest = logins[..place].iter().map(|other| it.overlap(other)).fold(longest, Duration::max);
    }
    longest
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
    /// Takes note that its word stands against one more workspace.
    fn rises(&mut self) {
        self.stands += 1;
        self.known |= self.stands >= 2;
    }

    /// Takes note that its word stands against one workspace less.
    fn falls(&mut self) {
        self.stands -= 1;
        self.known &= self.stands > 0;
    }
}

fn name_of<'a>(logins: &'a mut HashMap<Arc<str>, Login>, accusation: &Accusation) -> Option<&'a mut Name> {
    logins.get_mut(&accusation.login)?.names.get_mut(accusation.name.as_ref()?)
}

/// Takes note that an accusation is made again after it was refuted.
fn stand_again(logins: &mut HashMap<Arc<str>, Login>, accusation: &Accusation) {
    if let Some(name) = name_of(logins, accusation) {
        name.rises();
    }
}

/// Removes the reporters whose word does not stand.
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

/// Merges all names under which a login accuses one workspace into one reporter.
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

/// Removes an accusation from the counts; `rest` are the other accusations of the same workspace.
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
mod tests;
