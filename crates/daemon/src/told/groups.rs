//! A picture's workspaces by engine.

use std::collections::{BTreeSet, HashMap};

use super::natural::natural;
use super::picture::Counts;
use super::standing::{Judge, Voices};

/// The workspaces of one engine.
#[derive(Debug)]
pub(crate) struct Group {
    /// The engine; empty for the workspaces on no engine.
    pub(crate) engine: String,
    /// Their places in the picture's rows, in order.
    pub(crate) rows: Vec<u32>,
    pub(crate) counts: Counts,
    pub(crate) troubled: u32,
}

/// The engines of a picture that is being made. Each is looked up for each of its workspaces, and its judge is found once.
pub(super) struct Parts<'a> {
    voices: &'a Voices,
    places: HashMap<String, usize>,
    made: Vec<Part<'a>>,
}

/// One of them.
pub(super) struct Part<'a> {
    pub(super) group: Group,
    pub(super) judge: Result<Judge<'a>, String>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(voices: &'a Voices) -> Self {
        Self { voices, places: HashMap::new(), made: Vec::new() }
    }

    /// The part of an engine; with an empty name, of those on no engine.
    pub(super) fn of(&mut self, engine: &str) -> &mut Part<'a> {
        let place = self.places.get(engine).copied().unwrap_or_else(|| {
            let group = Group { engine: engine.to_owned(), rows: Vec::new(), counts: Counts::default(), troubled: 0 };
            self.made.push(Part { group, judge: self.voices.judge(engine, engine.is_empty()) });
            self.places.insert(engine.to_owned(), self.made.len() - 1);
            self.made.len() - 1
        });
        &mut self.made[place]
    }

    /// Every engine that anybody speaks of, in natural order; those without an engine last.
    pub(super) fn groups(mut self) -> Vec<Group> {
        for engine in spoken_of(self.voices) {
            self.of(&engine);
        }
        let mut groups: Vec<Group> = self.made.into_iter().map(|part| part.group).collect();
        groups
            .sort_by(|a, b| a.engine.is_empty().cmp(&b.engine.is_empty()).then_with(|| natural(&a.engine, &b.engine)));
        groups
    }
}

/// The engines that a lease or a running replica names.
fn spoken_of(voices: &Voices) -> BTreeSet<String> {
    let leased = voices.said.leases.iter().map(|lease| lease.engine.to_string());
    let configured = voices.living().flat_map(|replica| replica.engines.iter().cloned());
    leased.chain(configured).collect()
}
