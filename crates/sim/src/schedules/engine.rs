//! Containers, and an engine that carries calls out when it likes.

use defib_policy::id::ContainerId;
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation};

use super::state::{Answer, Call, Container, Deed, Event, Mood, Starter, Walk};
use crate::facts::Facts;
use crate::time::{Ms, secs, stamp};

/// One look at an engine.
const ENGINE_TIMEOUT: Ms = 5_000;
/// A workspace beats this often.
const BEAT: Ms = 10_000;

impl Container {
    pub(super) fn new(engine: usize, now: Ms) -> Self {
        let facts = Facts {
            status: "online",
            suspended: false,
            exists: true,
            heartbeat: Some(stamp(now, 0)),
            activity: None,
            active_tasks: 0,
        };
        Self {
            engine,
            facts,
            containers: 1,
            life: 1,
            starter: Starter::Platform,
            began: now,
            runs: true,
            hangs: false,
            down_since: None,
            put_away_at: None,
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.runs && !self.hangs
    }

    /// Writes the last heartbeat that it has sent by now into its row.
    pub(super) fn beat(&mut self, now: Ms) {
        let last = now - now % BEAT;
        if self.is_well() && last > self.began {
            self.facts.heartbeat = self.facts.heartbeat.max(Some(stamp(last, 0)));
        }
    }

    pub(super) fn incarnation(&self, of: usize) -> Incarnation {
        Incarnation {
            container_id: ContainerId::from(format!("c{of}.{}", self.containers)),
            started_at: Some(stamp(self.began, 0)),
        }
    }

    fn begin(&mut self, now: Ms, starter: Starter) {
        self.life += 1;
        self.began = now.max(self.began + 1);
        self.starter = starter;
        (self.runs, self.hangs, self.down_since) = (true, false, None);
    }
}

impl Walk {
    /// What a look shows now, and the truth beside it for the judge, who is not on trial.
    pub(super) fn seen(&self, of: usize) -> Answer {
        let it = &self.boxes[of];
        let incarnation = it.incarnation(of);
        let observation = if it.runs {
            Observation::Running { incarnation, health: Health::None }
        } else {
            Observation::Stopped { incarnation, exit: Exit::default() }
        };
        Answer::Seen { observation, life: it.life, hangs: it.hangs, at: self.now }
    }

    /// A look at a container begins.
    pub(super) fn look(&mut self, job: u64, ticket: u32, process: usize, of: usize) {
        let mood = self.moods[self.boxes[of].engine];
        if mood.silent || self.processes[process].cut_from_engines {
            let wait = if self.dice.chance(0.5) { ENGINE_TIMEOUT } else { 2 };
            self.push(wait, Event::Answer(job, ticket, unknown()));
        } else {
            let wait = if mood.slow { self.dice.between(5, secs(2)) } else { self.dice.between(1, 30) };
            self.push(wait, Event::Look(job, ticket, of));
        }
    }

    /// A look has reached the engine.
    pub(super) fn looked(&mut self, job: u64, ticket: u32, of: usize) {
        let seen = self.seen(of);
        let wait = self.dice.between(1, 20);
        self.push(wait, Event::Answer(job, ticket, seen));
    }

    /// A call leaves its process.
    pub(super) fn call(&mut self, call: Call) {
        self.check_call(&call);
        let number = self.calls.len();
        self.calls.push(call);
        let mood = self.moods[self.boxes[call.of].engine];
        let window = if call.window { ", stopped in between" } else { "" };
        self.note(|| {
            format!(
                "p{} CALLS w{} for life {} (attempt {}, kills: {}{window})",
                call.process, call.of, call.life, call.row, call.kills
            )
        });
        let cut = self.processes[call.process].cut_from_engines;
        if cut && self.dice.chance(0.5) {
            return self.push(2, Event::Answer(call.job, call.ticket, Answer::CallLost));
        }
        if mood.fails {
            // Half of a restart may have been made.
            if call.kills && self.dice.chance(0.5) {
                self.push(10, Event::Deed(number, Deed::Kill, false));
            }
            return self.push(50, Event::Answer(call.job, call.ticket, Answer::CallRefused));
        }
        let arrives = self.dice.between(1, 20);
        let takes = self.takes(mood);
        if call.kills {
            let killed = arrives + takes / 2;
            self.push(killed, Event::Deed(number, Deed::Kill, false));
        }
        self.push(arrives + takes, Event::Deed(number, Deed::Start, true));
        if self.dice.chance(0.1) {
            // The connection breaks; the engine does not mind.
            let breaks = self.dice.between(1, call.deadline);
            self.push(breaks, Event::Answer(call.job, call.ticket, Answer::CallLost));
        }
        self.push(call.deadline, Event::Answer(call.job, call.ticket, Answer::CallLost));
    }

    /// How long an engine works on a call.
    fn takes(&mut self, mood: Mood) -> Ms {
        match (self.dice.below(100), mood.slow || mood.silent) {
            (0..=79, false) | (0..=29, true) => self.dice.between(100, 1_000),
            (80..=95, false) | (30..=79, true) => self.dice.between(secs(1), secs(35)),
            _ => self.dice.between(secs(30), secs(150)),
        }
    }

    /// An engine does something for a call; `answers` says whether it then answers.
    pub(super) fn deed(&mut self, number: usize, deed: Deed, answers: bool) {
        let Some(call) = self.calls.get(number).copied() else { return };
        let now = self.now;
        let it = &self.boxes[call.of];
        if it.containers != call.container {
            return self.push(1, Event::Answer(call.job, call.ticket, Answer::CallGone));
        }
        match (deed, it.runs) {
            (Deed::Kill, true) => {
                self.check_effect(&call, true);
                let it = &mut self.boxes[call.of];
                it.beat(now);
                it.runs = false;
                it.down_since.get_or_insert(now);
                self.note(|| format!("engine stops w{} for attempt {}", call.of, call.row));
            }
            (Deed::Start, false) => {
                // If the call itself has stopped the life, the start that follows is a part of the same call.
                if !call.kills || self.boxes[call.of].life != call.life {
                    self.check_effect(&call, false);
                }
                let starter = self.starter(&call);
                self.boxes[call.of].begin(now, starter);
                self.tally.restarts += 1;
                self.note(|| format!("engine starts w{} for attempt {}", call.of, call.row));
            }
            (Deed::Start, true) => self.tally.idle += 1,
            (Deed::Kill, false) => {}
        }
        let silent = self.moods[self.boxes[call.of].engine].silent || self.processes[call.process].cut_from_engines;
        if answers && !silent {
            self.push(2, Event::Answer(call.job, call.ticket, Answer::CallDone));
        }
    }

    /// A life ends, or goes on and does nothing any more.
    pub(super) fn die(&mut self, of: usize, hangs: bool) {
        let now = self.now;
        let it = &mut self.boxes[of];
        if !it.is_well() {
            return;
        }
        it.beat(now);
        it.down_since = Some(now);
        (it.runs, it.hangs) = (hangs, hangs);
        let life = it.life;
        self.tally.deaths += 1;
        self.note(|| format!("w{of} {} (life {life})", if hangs { "HANGS" } else { "DIES" }));
    }

    /// The platform starts it, in a new container or not, whatever it was.
    pub(super) fn platform_starts(&mut self, of: usize, anew: bool) {
        let now = self.now;
        let it = &mut self.boxes[of];
        it.beat(now);
        it.containers += u32::from(anew);
        it.begin(now, Starter::Platform);
        let life = it.life;
        self.note(|| format!("the platform starts w{of}: life {life}{}", if anew { ", a new container" } else { "" }));
    }
}

fn unknown() -> Answer {
    Answer::Seen { observation: Observation::Unknown { fault: Fault::TimedOut }, life: 0, hangs: false, at: 0 }
}
