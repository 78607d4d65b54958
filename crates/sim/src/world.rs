//! The world: everything that exists, the loop that lets time pass, and what a detector on trial is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use defib_policy::abilities::Abilities;
use defib_policy::id::EngineName;
use defib_policy::settings::Settings;

use crate::chronicle::{Agreement, Before, By, Chronicle, Obstacle};
use crate::database::{Database, Report};
use crate::dice::Dice;
use crate::endpoint::Endpoint;
use crate::engine::Engine;
use crate::facts::Facts;
use crate::functions::Functions;
use crate::queue::{Event, Queue, Wake};
use crate::time::{Ms, ORIGIN, clock, ms, stamp};
use crate::workspace::{Mind, Spec, Workspace};

/// How long every world runs before its scenario begins, so that detectors have learned what they can learn.
pub const WARM_UP: Ms = 600_000;

/// A step of a scenario.
type Step = Box<dyn FnOnce(&mut World)>;

/// A detector. It sees of the world what its kind sees in production, and acts through the same calls.
pub trait Detector {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// It starts as detector number `me`: schedules its first wake.
    fn start(&mut self, me: u8, world: &mut World);

    /// Something happened that it is told of.
    fn wake(&mut self, me: u8, wake: Wake, world: &mut World);

    /// Its process is killed; `start` begins a new one.
    fn crash(&mut self) {}

    /// Its process stands still between these true times; `lost` says whether its monotonic clock stood still as well.
    fn freeze(&mut self, _from: Ms, _until: Ms, _lost: bool) {}

    /// It loses its database, alone.
    fn cut_off(&mut self, _cut: bool) {}
}

/// Everything that exists.
pub struct World {
    /// True time.
    pub now: Ms,
    /// When the scenario begins.
    pub zero: Ms,
    /// Chance.
    pub dice: Dice,
    /// The knobs of defib in this world.
    pub settings: Settings,
    /// How many replicas of defib run.
    pub replicas: usize,
    /// The truth about each workspace.
    pub workspaces: Vec<Workspace>,
    /// The engines.
    pub engines: Vec<Engine>,
    /// The database.
    pub db: Database,
    /// What happened.
    pub chronicle: Chronicle,
    /// The proxies that cannot reach any workspace, by number.
    pub broken_proxies: BTreeSet<u8>,
    /// The time until which those proxies are not believed, because of what they reported while they were broken.
    pub discredited: BTreeMap<u8, Ms>,
    /// A proxy that gives the id of each request as its name.
    pub names_requests: Option<u8>,
    /// About whom a reporter lies, and until when somebody may remember that.
    pub lied_about: BTreeMap<usize, Ms>,
    /// The database login of each proxy; a number of its own for one that is not here.
    pub logins: BTreeMap<u8, u8>,
    /// How many proxies there are.
    pub proxies: u8,
    /// A request that succeeds is written down as activity.
    pub writes_activity: bool,
    /// Whoever is on trial is a part of the platform, and makes a missing container again by itself. defib never is.
    pub platform_recreates: bool,
    /// The platform's own restart, where defib is configured with one.
    pub endpoint: Option<Endpoint>,
    requests: u32,
    queue: Queue,
    steps: Vec<Option<Step>>,
    free_steps: Vec<usize>,
    detectors: Vec<Option<Box<dyn Detector>>>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: ORIGIN,
            zero: ORIGIN + WARM_UP,
            dice: Dice::new(seed),
            settings: Settings::default(),
            replicas: 1,
            workspaces: Vec::new(),
            engines: Vec::new(),
            db: Database::new(ORIGIN),
            chronicle: Chronicle::default(),
            broken_proxies: BTreeSet::new(),
            discredited: BTreeMap::new(),
            names_requests: None,
            lied_about: BTreeMap::new(),
            logins: BTreeMap::new(),
            requests: 0,
            proxies: 2,
            writes_activity: false,
            platform_recreates: false,
            endpoint: None,
            queue: Queue::default(),
            steps: Vec::new(),
            free_steps: Vec::new(),
            detectors: Vec::new(),
        }
    }

    /// Adds an engine; its number.
    pub fn add_engine(&mut self) -> usize {
        self.engines.push(Engine::new(self.engines.len()));
        self.engines.len() - 1
    }

    /// Adds a workspace that has been well for long; its number.
    pub fn add(&mut self, engine: usize, spec: Spec) -> usize {
        let number = self.workspaces.len();
        let workspace = Workspace::new(number, engine, spec, self.now);
        let since_beat = self.dice.below(spec.interval);
        self.db.facts.push(Facts {
            status: "online",
            suspended: false,
            exists: true,
            heartbeat: Some(stamp(self.now - since_beat, 0)),
            activity: None,
            active_tasks: 0,
        });
        self.db.recorded.push(None);
        self.db.functions.push(Functions::default());
        self.chronicle.open.push(None);
        self.workspaces.push(workspace);
        self.touch(number);
        self.queue.push(self.now + spec.interval - since_beat, Event::Beat(id(number), 0));
        if spec.request_every > 0 {
            let wait = self.dice.wait(spec.request_every);
            self.queue.push(self.now + wait, Event::Request(id(number)));
        }
        self.refresh_view();
        number
    }

    /// Adds a fleet of `n`, spread over the engines in turn.
    pub fn add_fleet(&mut self, n: usize, engines: usize, spec: Spec) {
        while self.engines.len() < engines {
            self.add_engine();
        }
        for number in 0..n {
            self.add(number % engines, spec);
        }
    }

    /// Puts a detector on trial; its number.
    pub fn put_on_trial(&mut self, mut detector: Box<dyn Detector>) -> u8 {
        let me = u8::try_from(self.detectors.len()).unwrap_or(u8::MAX);
        detector.start(me, self);
        self.detectors.push(Some(detector));
        me
    }

    /// How many detectors there are.
    #[must_use]
    pub fn detectors(&self) -> u8 {
        u8::try_from(self.detectors.len()).unwrap_or(u8::MAX)
    }

    /// Does something to a detector.
    pub fn with_detector(&mut self, number: u8, act: impl FnOnce(&mut dyn Detector, &mut Self)) {
        let place = usize::from(number);
        let Some(mut detector) = self.detectors.get_mut(place).and_then(Option::take) else { return };
        act(detector.as_mut(), self);
        self.detectors[place] = Some(detector);
    }

    /// Kills the process of a detector, with all that it remembers.
    pub fn crash_detector(&mut self, number: u8) {
        self.chronicle.process_changes.push(self.now);
        self.with_detector(number, |detector, _| detector.crash());
    }

    /// Begins a new process of a detector, instead of the one that runs if there is one.
    pub fn restart_detector(&mut self, number: u8) {
        self.crash_detector(number);
        self.with_detector(number, |detector, world| detector.start(number, world));
    }

    /// Schedules a step this long after the scenario's beginning.
    pub fn at(&mut self, after_zero: Ms, step: impl FnOnce(&mut Self) + 'static) {
        self.schedule(self.zero + after_zero, step);
    }

    /// Schedules a step this long from now.
    pub fn later(&mut self, wait: Ms, step: impl FnOnce(&mut Self) + 'static) {
        self.schedule(self.now + wait, step);
    }

    fn schedule(&mut self, at: Ms, step: impl FnOnce(&mut Self) + 'static) {
        let step: Step = Box::new(step);
        let place = if let Some(place) = self.free_steps.pop() {
            self.steps[place] = Some(step);
            place
        } else {
            self.steps.push(Some(step));
            self.steps.len() - 1
        };
        self.queue.push(at, Event::Call(id(place)));
    }

    /// Schedules an event.
    pub fn push(&mut self, at: Ms, event: Event) {
        self.queue.push(at, event);
    }

    /// Wakes every detector.
    pub fn wake_all(&mut self, at: Ms, wake: Wake) {
        for number in 0..self.detectors() {
            self.queue.push(at, Event::Wake(number, wake));
        }
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until: Ms) {
        while let Some((at, event)) = self.queue.pop(until) {
            self.now = at;
            match event {
                Event::Beat(of, life) => self.beat(of as usize, life),
                Event::Ready(of, life) => self.ready(of as usize, life),
                Event::Request(of) => self.request(of as usize),
                Event::Wake(number, wake) => {
                    self.with_detector(number, |detector, world| detector.wake(number, wake, world));
                }
                Event::Call(place) => {
                    let place = place as usize;
                    if let Some(step) = self.steps[place].take() {
                        self.free_steps.push(place);
                        step(self);
                    }
                }
            }
        }
        self.now = until;
    }

    fn beat(&mut self, of: usize, life: u32) {
        let workspace = &self.workspaces[of];
        if workspace.life != life {
            return;
        }
        let spec = workspace.spec;
        if workspace.mind == Mind::Busy || !workspace.is_well() {
            return;
        }
        if workspace.mind == Mind::Working && workspace.body != crate::workspace::Body::Paused {
            self.send_beat(of);
        }
        let next = self.now + self.dice.around(spec.interval, spec.jitter);
        self.queue.push(next, Event::Beat(id(of), life));
    }

    fn send_beat(&mut self, of: usize) {
        if !(self.db.up && self.db.writable && self.db.pipeline) {
            return;
        }
        let at = stamp(self.now, self.db.offset + self.workspaces[of].writer_offset);
        self.db.beat(of, at);
        self.workspaces[of].heard = true;
        if self.db.lag > 0 {
            let lag = self.db.lag;
            self.later(lag, move |world| world.db.replicate(of, at));
        }
    }

    fn request(&mut self, of: usize) {
        let every = self.workspaces[of].spec.request_every;
        if every == 0 {
            return; // nothing calls it any more
        }
        let wait = self.dice.wait(every);
        self.queue.push(self.now + wait, Event::Request(id(of)));
        let proxy = u8::try_from(self.dice.below(u64::from(self.proxies))).unwrap_or(0);
        self.request_through(of, proxy);
    }

    /// The clock of the database steps, and is ahead by these microseconds from now on.
    pub fn step_clock(&mut self, ahead: i64) {
        let back = Ms::try_from((self.db.offset - ahead) / 1_000).unwrap_or_default();
        self.db.offset = ahead;
        self.chronicle.clock_steps.push((self.now, back));
        self.remark(&format!("the clock of the database steps, and is ahead by {} ms", ahead / 1_000));
    }

    /// Somebody calls a workspace through a proxy.
    pub fn request_through(&mut self, of: usize, proxy: u8) {
        if !self.db.facts[of].exists {
            return;
        }
        if self.workspaces[of].answers() && !self.broken_proxies.contains(&proxy) {
            if self.writes_activity && self.db.up && self.db.writable {
                let at = self.db.clock(self.now);
                self.db.active(of, at);
            }
            return;
        }
        self.request_failed(of, proxy);
    }

    /// A request failed: the proxy tells whoever listens.
    pub fn request_failed(&mut self, of: usize, proxy: u8) {
        self.wake_all(self.now, Wake::Failed(id(of), proxy));
        let believed = self.discredited.get(&proxy).is_none_or(|until| *until <= self.now);
        if believed && !self.broken_proxies.contains(&proxy) && self.db.up && self.db.writable {
            // A window is a little more than two intervals: its own or, if they are longer, those that are configured.
            let login = self.logins.get(&proxy).copied().unwrap_or(proxy);
            let two_windows = 5 * self.workspaces[of].spec.interval.max(ms(self.settings.heartbeat_interval));
            let (fresh, lapse) = (two_windows / 2, ms(self.settings.wedged_after));
            self.chronicle.unreached(of, login, self.now, Agreement { fresh, lasting: two_windows, lapse });
        }
        if self.db.up && self.db.writable {
            self.requests += 1;
            // The numbers below 256 are the proxies' own names.
            let name = if self.names_requests == Some(proxy) { 255 + self.requests } else { u32::from(proxy) };
            let login = self.logins.get(&proxy).copied().unwrap_or(proxy);
            if self.db.report(Report { of, login, name, at: self.now }) && self.db.notifies {
                self.wake_all(self.now + 2, Wake::Suspected(id(of)));
            }
        }
    }

    /// What an engine is able to do, together with the platform where one is configured.
    #[must_use]
    pub fn abilities(&self, engine: usize) -> Abilities {
        let own = self.engines[engine].abilities;
        self.endpoint.as_ref().map_or(own, |endpoint| endpoint.beside(own))
    }

    /// Brings what looks show of a workspace up to date.
    pub fn touch(&mut self, of: usize) {
        let offset = self.engines[self.workspaces[of].engine].offset;
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        workspace.listed.observation = workspace.observe(now, offset, false);
        workspace.inspected.observation = workspace.observe(now, offset, true);
    }

    /// Brings the fleet view up to date after a change of who is watched.
    pub fn refresh_view(&mut self) {
        let names: Vec<EngineName> = self.engines.iter().map(|engine| engine.name.clone()).collect();
        let Self { db, workspaces, .. } = self;
        db.rebuild(workspaces, &names);
    }

    /// The engine reports an event of a workspace.
    pub fn engine_event(&mut self, of: usize) {
        let engine = &self.engines[self.workspaces[of].engine];
        if engine.events && engine.fault.is_none() {
            let wait = self.dice.between(2, 20);
            self.wake_all(self.now + wait, Wake::EngineEvent(id(of)));
        }
    }

    /// Writes down that something stands in the way from now on for `lasting`, and for `grace` after it.
    pub fn obstacle(&mut self, engine: Option<usize>, lasting: Ms, grace: Ms) {
        let until = self.now + lasting + grace;
        let before = engine.map_or(Before::Everybody, Before::Engine);
        self.chronicle.obstacles.push(Obstacle { before, from: self.now, until });
    }

    /// Writes down an obstacle to one workspace alone.
    pub fn obstacle_of(&mut self, of: usize, lasting: Ms, grace: Ms) {
        let until = self.now + lasting + grace;
        self.chronicle.obstacles.push(Obstacle { before: Before::Workspace(of), from: self.now, until });
    }

    /// Adds a line to the timeline about a workspace.
    pub fn note(&mut self, of: usize, what: &str) {
        let now = self.now;
        let name = &self.workspaces[of].id;
        self.chronicle.note(now, || format!("{name} {what}"));
    }

    /// Adds a line to the timeline.
    pub fn remark(&mut self, what: &str) {
        let now = self.now;
        self.chronicle.note(now, || what.to_owned());
    }

    /// The timeline as text.
    #[must_use]
    pub fn timeline(&self) -> String {
        let lines = self.chronicle.trace.iter().flatten();
        let mut text = String::new();
        for (at, line) in lines {
            let _ = writeln!(text, "{:>12} {line}", clock(*at, self.zero));
        }
        text
    }

    /// Who did something, for the timeline.
    #[must_use]
    pub const fn by(by: By) -> &'static str {
        match by {
            By::Detector => "detector",
            By::Engine => "engine",
            By::Platform => "platform",
        }
    }
}

/// A number of a workspace or step as events carry it.
#[must_use]
pub fn id(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
