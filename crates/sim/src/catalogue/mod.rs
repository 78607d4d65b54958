//! The incidents, each with its oracle. S01 to S56 happened to systems like this one; from S57 on neighbours misbehave. C01 and those after
//! it are about instances behind a control plane.
//!
//! A seed varies what the story leaves open: phases, intervals, which workspace, which variant, how long. The world also has what defib
//! cannot see (that a failure comes from the configuration, that a child uses its parent's network); the comment of such a scenario says
//! what is asked of defib instead. docs/incidents.md has a section for each, with what happened in the field.

mod cadence;
mod control_planes;
mod database;
mod engine;
mod fleet;
mod lifecycle;
mod neighbours;
mod running;
mod storms;
mod story;

use crate::scenario::Scenario;

macro_rules! scenarios {
    ($($id:literal $name:literal $build:path : $story:literal),* $(,)?) => {
        &[$(Scenario { id: $id, name: $name, story: $story, build: $build }),*]
    };
}

/// All incidents, in order.
pub const ALL: &[Scenario] = scenarios![
    "S01" "window shorter than cadence" cadence::s01: "a false sample of a healthy workspace at any phase of its heartbeat",
    "S02" "busy agent" cadence::s02: "work starves heartbeats for 60 to 120 s, and proxies complain",
    "S03" "busy for long, then wedged" cadence::s03: "ten minutes of work without heartbeats, then really nothing any more",
    "S04" "burst of failures" cadence::s04: "ten requests fail within 50 ms, each with a negative sample",
    "S05" "sparse traffic, really dead" cadence::s05: "dead, and hardly anybody calls",
    "S06" "flapping sample" cadence::s06: "two daemons behind one socket, each 10 s the other one",
    "S07" "slow degradation" cadence::s07: "the heartbeat interval grows from 30 to 80 s in an hour",
    "S08" "unobserved at start" cadence::s08: "defib starts on a large fleet and hours of old suspicions",
    "S09" "daemon under load" engine::s09: "requests fail, and the engine does not answer in time",
    "S10" "daemon restart" engine::s10: "dockerd restarts, containers exit, some are revived by it",
    "S11" "health frozen" engine::s11: "dockerd restarts with live-restore, health results stay at their last word",
    "S12" "inspect hangs" engine::s12: "one container cannot be inspected, later the list hangs",
    "S13" "not found that is not ours" engine::s13: "404 of a proxy, errors, or another daemon on the socket",
    "S14" "docker pause" engine::s14: "an operator freezes a container",
    "S15" "crash loop under the engine's policy" engine::s15: "exits each 3 s, the engine restarts it with back-off",
    "S16" "created, removing" engine::s16: "the platform recreates a container, and it is absent for a while",
    "S17" "recreated with a new id" engine::s17: "a late sample of the old container arrives after the new one started",
    "S18" "exit code 0" engine::s18: "it exits by itself; wanted, or not",
    "S19" "OOM loop" engine::s19: "killed for memory 90 s after each start",
    "S20" "child killed, PID 1 alive" engine::s20: "the container runs and nobody is at home",
    "S21" "up but gone" engine::s21: "the engine missed the exit, and its restart call hangs",
    "S22" "event stream dies" engine::s22: "no events arrive, a container dies",
    "S23" "restart times out, and happens" engine::s23: "the engine takes 200 s for a start, the client waits 30",
    "S24" "Postgres outage" database::s24: "the database is away for 300 s, nobody can beat",
    "S25" "replica lag" database::s25: "the fleet is read 200 s late",
    "S26" "heartbeats refused" database::s26: "after a restart its heartbeats are refused for 10 min",
    "S27" "clock skew and steps" database::s27: "the database's, the engine's or the writers' clock is off, or steps",
    "S28" "suspend" database::s28: "the host of defib sleeps for an hour",
    "S29" "own stall" database::s29: "defib stands still for 51 s",
    "S30" "fail-over in a restart" database::s30: "the owner dies or stalls between claim and outcome",
    "S31" "owner without database" database::s31: "the owner loses Postgres and still reaches the engine",
    "S32" "defib restarts each minute" database::s32: "a bad deploy: it lives 50 s, 20 times",
    "S33" "suspicion flood" database::s33: "50,000 suspicions in 10 s",
    "S34" "one broken caller" database::s34: "a proxy with a broken network accuses everybody",
    "S35" "parked is inviolable" lifecycle::s35: "parked, container gone, heartbeat stale, requests arrive",
    "S36" "pause races the sweep" lifecycle::s36: "the container is removed just before the row says paused",
    "S37" "hibernating races the proxy" lifecycle::s37: "requests fail while it is being hibernated",
    "S38" "slow boot, old heartbeat" lifecycle::s38: "a boot of many minutes outlives the last heartbeat's window",
    "S39" "self-fire loop" lifecycle::s39: "the new instance is pending for a minute while requests fail",
    "S40" "two entry points" lifecycle::s40: "the user restarts it while defib does",
    "S41" "deleted while restarted" lifecycle::s41: "dead, and deleted in the middle of its restart",
    "S42" "cold boot" lifecycle::s42: "a healthy boot of ten minutes and a half",
    "S43" "restart makes it worse" lifecycle::s43: "each start after the first fails at once: a broken configuration",
    "S44" "wrong database" lifecycle::s44: "the fleet table is empty for a while",
    "S45" "hibernation by silence" lifecycle::s45: "another sweep stops the whole fleet after a heartbeat outage",
    "S46" "external runtime" lifecycle::s46: "no container by design, and its heartbeat stops",
    "S47" "host reboot" fleet::s47: "a host with 40 % of the fleet is away for 180 s",
    "S48" "shared dependency" fleet::s48: "health checks of 90 % fail, the processes are well",
    "S49" "health flaps" fleet::s49: "the health of the whole fleet flaps for two hours",
    "S50" "brief partition" fleet::s50: "an engine and its heartbeats are away for 43 s",
    "S51" "true mass death" fleet::s51: "60 % die within a minute, for real",
    "S52" "small fleet" fleet::s52: "one of three dies",
    "S53" "slow leak" fleet::s53: "one death each three minutes for hours",
    "S54" "mass restart by the platform" fleet::s54: "the platform recreates everybody at once, boots take long",
    "S55" "recovery that never holds" fleet::s55: "well for four minutes after each restart, then dead",
    "S56" "chain of victims" fleet::s56: "a parent dies and takes the children in its network along",
    "S57" "three are refused" storms::s57: "twelve die together, and the engine refuses to start three of them",
    "S58" "three are removed" storms::s58: "twelve die together, and the containers of three are removed",
    "S59" "three are vetoed" storms::s59: "twelve die together, and the platform vetoes the restarts of three",
    "S60" "thirds" storms::s60: "twelve die together; a third is refused, a third is vetoed, a third can live",
    "S61" "some die again" storms::s61: "twelve die together, and up to a third die again after each start",
    "S62" "a storm must end" storms::s62: "some in the storm are exhausted, held, or only reported",
    "S63" "the platform's function hangs" neighbours::s63: "ten die one by one, and mark_dead raises or hangs for five of them",
    "S64" "health checks far apart" running::s64: "it hangs, nobody calls it, and its check runs each 5 s, 30 s or 5 min",
    "S65" "held after the mark" neighbours::s65: "held right after the claim, and started by hand",
    "S66" "amnesty without end" neighbours::s66: "the engine comes and goes for half an hour, and one is dead",
    "S67" "never asked" neighbours::s67: "eight attempts end before the engine is asked",
    "S68" "a boot under way" running::s68: "defib starts while some boot for long, with heartbeats from before",
    "S69" "an order that waited" running::s69: "it comes to while its restart waits for a place",
    "S70" "one login, many names" running::s70: "one caller accuses the silent under many names",
    "S71" "restarted between two looks" neighbours::s71: "it dies after each start while lists are slow",
];

/// Incidents behind a control plane, in order. The policies of others know container engines only, so these are not in the comparison.
pub const CONTROL_PLANES: &[Scenario] = scenarios![
    "C01" "a tenant that is not found" control_planes::c01: "the control plane and the platform answer 404 for the whole tenant, and one dies",
    "C02" "storms of 5xx" control_planes::c02: "the control plane and the platform answer 5xx in bursts for half an hour, and two die",
    "C03" "pending" control_planes::c03: "a new instance is pending for a minute while requests to it fail",
    "C04" "said to run" control_planes::c04: "the control plane says that a dead instance runs",
    "C05" "pending for ever" control_planes::c05: "what is made anew stays pending for twenty minutes, and is not made without end",
];

/// The scenario of that number.
#[must_use]
pub fn find(id: &str) -> Option<&'static Scenario> {
    ALL.iter().chain(CONTROL_PLANES).find(|scenario| scenario.id.eq_ignore_ascii_case(id))
}
