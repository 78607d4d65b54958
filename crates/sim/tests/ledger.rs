//! The model of ledger and leases is held against the SQL: random sequences of operations, on both, and every answer and every row
//! must be the same.
//!
//! Nobody waits: the model's clock stands still, and time passes by moving the times in the rows of both into the past. All spans are
//! odd multiples of 50 s and all steps even ones, so that the seconds that a sequence really takes never decide anything, and times
//! are compared as multiples of 50 s. `DEFIB_SIM_SEQUENCES` and `DEFIB_SIM_SEED` ask for more than the few hundred of `make test`.
//!
//! The file is long because each operation stands here twice, on the SQL and on the model, and the two must be read side by side.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::moment::{Moment, Timestamp};
use defib_sim::dice::Dice;
use defib_sim::facts::{Evidence, Facts};
use defib_sim::lease::{self, Leases};
use defib_sim::ledger::{self, Hold, HoldScope, Ledger, Mark};
use defib_sim::weakening::Weakening;
use defib_store::{FleetScope, LeaseProof, LeaseTurn, Store, StoreSettings};
use defib_testkit::{PrivatePostgres, postgres};
use serde_json::json;
use tokio_postgres::Client;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const ENGINES: [&str; 3] = ["e0", "e1", "e2"];
const REPLICAS: [&str; 3] = ["a", "b", "c"];
const STATUSES: [&str; 5] = ["online", "degraded", "offline", "paused", "provisioning"];
const WORKSPACES: usize = 4;
const STEPS: u32 = 60;
/// Steps between two comparisons of all rows. Answers are compared at each.
const ROWS_EVERY: u32 = 4;

/// What one replica would remember.
#[derive(Default)]
struct Replica {
    engines: Vec<EngineName>,
    owned: Option<BTreeMap<EngineName, i64>>,
}

struct Trial {
    store: Store,
    client: Client,
    /// A transaction that holds a lease as a claim does.
    hanging: Client,
    hung: Option<EngineName>,
    model: Ledger,
    facts: Vec<Facts>,
    replicas: Vec<Replica>,
    holds: i64,
    dice: Dice,
    said: Vec<String>,
}

fn workspace(of: usize) -> WorkspaceId {
    WorkspaceId::from(format!("w{of}"))
}

fn engine_of(of: usize) -> EngineName {
    EngineName::from(ENGINES[of % ENGINES.len()])
}

fn watched() -> Vec<String> {
    ["online", "degraded", "offline"].map(str::to_owned).to_vec()
}

/// In half-hundreds of seconds: what passes while a sequence runs is far less.
fn rounded(span: Duration) -> u64 {
    (span.as_secs() + 25) / 50
}

fn rounded_until(at: Timestamp) -> i64 {
    (at.0 - NOW.0 + 25_000_000).div_euclid(50_000_000)
}

impl Trial {
    async fn new() -> Self {
        let url = PrivatePostgres::shared().await.unwrap().create_database().await.unwrap();
        let origin = Instant::now();
        let clock = Arc::new(move || Moment::after(origin.elapsed()));
        let settings = StoreSettings {
            url: url.clone(),
            application_name: "defib-sim".into(),
            pool_size: 2,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            fleet_max: 250_000,
        };
        let store = Store::new(&settings, clock).unwrap();
        store.migrate().await.unwrap();
        let (client, hanging) = (postgres::connect(&url).await.unwrap(), postgres::connect(&url).await.unwrap());
        Self {
            store,
            client,
            hanging,
            hung: None,
            model: Ledger::default(),
            facts: Vec::new(),
            replicas: Vec::new(),
            holds: 0,
            dice: Dice::new(0),
            said: Vec::new(),
        }
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A sequence of operations from a seed; the first difference, with what led to it.
    async fn sequence(&mut self, seed: u64, weakening: Option<Weakening>) -> Result<(), String> {
        self.dice = Dice::new(seed);
        self.said.clear();
        self.model = Ledger::weakened(weakening);
        self.holds = 0;
        self.let_go().await;
        self.run(
            "truncate defib.workspaces, defib.restarts, defib.marks, defib.leases, defib.replicas, defib.holds restart identity cascade",
        )
        .await;
        self.facts = (0..WORKSPACES).map(|_| well()).collect();
        for of in 0..WORKSPACES {
            self.run(&format!("insert into defib.workspaces (id) values ('p{of}')")).await;
            self.write_row(of).await;
        }
        let all: Vec<EngineName> = ENGINES.iter().map(|name| EngineName::from(*name)).collect();
        self.replicas = REPLICAS.iter().map(|_| Replica { engines: all.clone(), owned: None }).collect();
        for step in 1..=STEPS {
            let (model, real) = self.step().await;
            let what = self.said.last().cloned().unwrap_or_default();
            if model != real {
                return Err(self.difference(seed, &format!("{what}\n  model: {model}\n  SQL:   {real}")));
            }
            if step % ROWS_EVERY != 0 {
                continue;
            }
            let (model, real) = (self.modelled_rows(), self.real_rows().await);
            if model != real {
                return Err(self.difference(seed, &format!("rows after {what}\n--- model\n{model}--- SQL\n{real}")));
            }
        }
        self.let_go().await;
        Ok(())
    }

    fn difference(&self, seed: u64, what: &str) -> String {
        format!("DEFIB_SIM_SEED={seed}\n{}\nDIFFERENT: {what}", self.said.join("\n"))
    }

    fn say(&mut self, what: String) {
        self.said.push(what);
    }

    fn number(&mut self, below: usize) -> usize {
        usize::try_from(self.dice.below(below as u64)).unwrap()
    }

    /// 50, 150 or 250 s.
    fn span(&mut self) -> Duration {
        Duration::from_secs(50 + 100 * self.dice.below(3))
    }

    /// One operation on both; what each answered.
    async fn step(&mut self) -> (String, String) {
        match self.dice.below(100) {
            0..=19 => self.turn().await,
            20..=41 => self.claim().await,
            42..=55 => self.may_act().await,
            56..=65 => self.finish().await,
            66..=68 => self.recovered().await,
            69 => self.take_back().await,
            70 | 71 => self.acknowledge().await,
            72..=76 => self.read().await,
            77..=79 => self.release().await,
            80..=87 => self.platform().await,
            88 | 89 => self.hold().await,
            90 | 91 => self.hang().await,
            _ => self.age().await,
        }
    }

    async fn turn(&mut self) -> (String, String) {
        let number = self.number(REPLICAS.len());
        let name = REPLICAS[number];
        if self.dice.chance(0.1) {
            self.replicas[number].owned = None; // another process of that name
        }
        if self.dice.chance(0.1) {
            let n = 1 + self.number(ENGINES.len());
            let chosen = self.dice.some_of(n, ENGINES.len());
            self.replicas[number].engines = chosen.into_iter().map(|it| EngineName::from(ENGINES[it])).collect();
        }
        let busy: BTreeSet<EngineName> =
            if self.dice.chance(0.2) { [engine_of(self.number(3))].into() } else { BTreeSet::new() };
        let ttl = self.span();
        // Mostly it reaches all of its engines.
        let mut fit: BTreeSet<EngineName> = self.replicas[number].engines.iter().cloned().collect();
        if self.dice.chance(0.2) {
            let out_of_reach = engine_of(self.number(3));
            fit.remove(&out_of_reach);
        }
        let Replica { engines, owned } = &self.replicas[number];
        self.said.push(format!(
            "turn of {name}: engines {engines:?}, fit {fit:?}, owned {owned:?}, busy {busy:?}, ttl {ttl:?}"
        ));
        let turn = lease::LeaseTurn { replica: name, engines, fit: &fit, owned: owned.as_ref(), busy: &busy, ttl };
        let model = self.model.leases.take_lease_turn(&turn, NOW).unwrap();
        let turn = LeaseTurn { replica: name, engines, fit: &fit, owned: owned.as_ref(), busy: &busy, ttl };
        let real = self.store.take_lease_turn(&turn).await.unwrap();
        let lease = |engine: &EngineName, holder: &str, epoch: i64, expires_in| {
            format!("{engine}:{holder}@{epoch} for {}", rounded(expires_in))
        };
        let shown = (
            format!(
                "{:?} {:?} {:?}",
                model.owned,
                model.usurped,
                model
                    .leases
                    .iter()
                    .map(|it| lease(&it.engine, &it.holder, it.epoch, it.expires_in))
                    .collect::<Vec<_>>()
            ),
            format!(
                "{:?} {:?} {:?}",
                real.owned,
                real.usurped,
                real.leases.iter().map(|it| lease(&it.engine, &it.holder, it.epoch, it.expires_in)).collect::<Vec<_>>()
            ),
        );
        self.replicas[number].owned = Some(real.owned);
        shown
    }

    async fn release(&mut self) -> (String, String) {
        let number = self.number(REPLICAS.len());
        let owned = self.replicas[number].owned.take().unwrap_or_default();
        self.say(format!("release by {}: {owned:?}", REPLICAS[number]));
        self.model.leases.release_leases(REPLICAS[number], &owned, NOW);
        self.store.release_leases(REPLICAS[number], &owned).await.unwrap();
        Default::default()
    }

    /// Mostly the lease that its holder has, now and then another one.
    fn lease(&mut self, engine: &EngineName) -> (String, i64) {
        let row = self.model.leases.row(engine).map(|row| (row.holder.to_string(), row.epoch));
        match row {
            Some((holder, epoch)) if self.dice.chance(0.8) => (holder, epoch),
            row => {
                let name = REPLICAS[self.number(REPLICAS.len())].to_owned();
                let epoch = row.map_or(1, |(_, epoch)| epoch);
                (name, epoch + i64::from(self.dice.chance(0.3)))
            }
        }
    }

    async fn claim(&mut self) -> (String, String) {
        let of = self.number(WORKSPACES);
        let (workspace, engine) = (workspace(of), engine_of(of));
        let (holder, epoch) = self.lease(&engine);
        let container = ["c0", "c1"].get(self.number(3)).map(|id| ContainerId::from(*id));
        let started_at = (!self.dice.chance(0.2)).then_some(Timestamp(1_000_000 * self.dice.below(2).cast_signed()));
        let attempt = u32::try_from(1 + self.dice.below(3)).unwrap();
        let seen = self.facts[of].clone();
        let earlier = |at: Option<Timestamp>| at.map(|at| at.shifted(-1_000_000));
        let (heartbeat, activity) = match self.dice.below(12) {
            0 => (earlier(seen.heartbeat), seen.activity),
            1 => (seen.heartbeat, earlier(seen.activity)),
            2 => (None, seen.activity),
            _ => (seen.heartbeat, seen.activity),
        };
        let status = if self.dice.chance(0.1) { "online" } else { seen.status };
        let deadline = self.span();
        let verdict = if self.dice.chance(0.5) { "dead" } else { "wedged" };
        self.say(format!(
            "claim {workspace} {container:?} {started_at:?} #{attempt} by {holder}@{epoch}: {status} {heartbeat:?} {activity:?}"
        ));
        let claim = ledger::Claim {
            of,
            workspace: &workspace,
            engine: &engine,
            container_id: container.as_ref(),
            started_at,
            attempt,
            epoch,
            verdict,
            evidence: Evidence { status, heartbeat, activity },
            claimed_by: &holder,
            deadline,
        };
        let model = self.model.claim(&claim, &mut self.facts[of], NOW).unwrap();
        let claim = defib_store::Claim {
            workspace: &workspace,
            engine: &engine,
            container_ref: None,
            instance_ref: None,
            policy: None,
            container_id: container.as_ref(),
            started_at,
            attempt,
            epoch,
            verdict,
            evidence: json!({"status": status, "last_heartbeat_at": heartbeat, "last_activity_at": activity}),
            claimed_by: &holder,
            deadline,
        };
        let real = self.store.claim(&claim).await.unwrap();
        (format!("{model:?}"), format!("{real:?}"))
    }

    /// An attempt, mostly one of the last few; sometimes none.
    fn attempt(&mut self) -> i64 {
        let newest = self.model.rows().last().map_or(1, |row| row.id);
        (newest + 1 - self.dice.below(6).cast_signed()).max(0)
    }

    async fn may_act(&mut self) -> (String, String) {
        let id = self.attempt();
        let (of, engine) = self.model.row(id).map_or((0, engine_of(0)), |row| (row.of, row.engine.clone()));
        let (holder, epoch) = self.lease(&engine);
        let within = self.span();
        self.say(format!("may {id} act under {holder}@{epoch} on {engine}"));
        let proof = lease::LeaseProof { engine: &engine, holder: &holder, epoch };
        let model = self.model.may_act(id, proof, within, &self.facts[of], NOW);
        let proof = LeaseProof { engine: &engine, holder: &holder, epoch };
        let real = self.store.may_act(id, &watched(), proof, within).await.unwrap();
        (format!("{model:?}"), format!("{real:?}"))
    }

    async fn finish(&mut self) -> (String, String) {
        let id = self.attempt();
        if self.dice.chance(0.5) {
            self.say(format!("abandon {id} unless it acts"));
            let model = self.model.abandon_unasked(id, NOW);
            return (model.to_string(), self.store.abandon_unasked(id, "gone").await.unwrap().to_string());
        }
        let outcome = *self.dice.pick(&Outcome::ALL).unwrap();
        self.say(format!("finish {id}: {outcome:?}"));
        let model = self.model.finish(id, outcome, NOW);
        (model.to_string(), self.store.finish(id, outcome, None).await.unwrap().to_string())
    }

    async fn recovered(&mut self) -> (String, String) {
        let id = self.attempt();
        let of = self.model.row(id).map(|row| row.of).filter(|_| self.dice.chance(0.9)).unwrap_or(0);
        self.say(format!("recovered {id} of w{of}"));
        let model = self.model.recovered(id, of, NOW);
        let real = self.store.recovered(id, &workspace(of)).await.unwrap();
        (model.to_string(), real.to_string())
    }

    async fn take_back(&mut self) -> (String, String) {
        let of = self.number(WORKSPACES);
        self.say(format!("take back the mark of w{of}"));
        let model = self.model.take_back(of, &mut self.facts[of]);
        let real = self.store.take_back(&workspace(of), &json!({})).await.unwrap();
        (model.to_string(), real.to_string())
    }

    async fn acknowledge(&mut self) -> (String, String) {
        let of = self.number(WORKSPACES);
        self.say(format!("acknowledge w{of}"));
        let model = self.model.acknowledge(of, NOW);
        (model.to_string(), self.store.acknowledge(&workspace(of)).await.unwrap().to_string())
    }

    async fn read(&mut self) -> (String, String) {
        let reset = self.span();
        let some: Vec<EngineName> = ENGINES.iter().take(1 + self.number(3)).map(|it| EngineName::from(*it)).collect();
        self.say(format!("reads: attempts (reset {reset:?}), open ones on {some:?}, leases"));
        let mut model = String::new();
        let mut attempts = Vec::new();
        for of in 0..WORKSPACES {
            self.model.read_attempts(of, NOW, reset, &mut attempts);
            for attempt in &attempts {
                tell(&mut model, attempt);
            }
        }
        for it in self.model.open_attempts(&some, NOW) {
            let (started, row) = (it.started_at, it.row);
            let _ = writeln!(
                model,
                "{} w{} {} {:?} {started:?} {} {} {} {} {}",
                it.id, it.of, it.engine, it.container_id, it.claimed_by, it.verdict, row.epoch, row.acting, row.overdue
            );
        }
        let _ = write!(model, "{:?}", self.model.leases.leases(NOW).len());

        let mut real = String::new();
        for attempt in self.store.read_attempts(FleetScope::All, reset).await.unwrap() {
            tell(&mut real, &attempt);
        }
        for it in self.store.open_attempts(&some).await.unwrap() {
            let started = it.started_at;
            let by = it.claimed_by.unwrap_or_default();
            let _ = writeln!(
                real,
                "{} {} {} {:?} {started:?} {by} {} {} {} {}",
                it.id,
                it.workspace,
                it.engine,
                it.container_id,
                it.verdict,
                it.epoch,
                it.acting,
                it.overdue_by.is_some()
            );
        }
        let _ = write!(real, "{:?}", self.store.leases().await.unwrap().len());
        (model, real)
    }

    async fn write_row(&self, of: usize) {
        let facts = &self.facts[of];
        let time = |at: Option<Timestamp>| at.map_or_else(|| "null".to_owned(), |at| format!("'{at}'"));
        self.run(&format!(
            "insert into defib.workspaces (id, status, engine, parent_id, last_heartbeat_at, last_activity_at)
             values ('w{of}', '{status}', '{engine}', 'p{of}', {beat}, {active})
                 on conflict (id) do update set status = excluded.status, last_heartbeat_at = excluded.last_heartbeat_at,
                                                last_activity_at = excluded.last_activity_at;
             update defib.workspaces set status = '{parent}' where id = 'p{of}'",
            status = facts.status,
            engine = engine_of(of),
            beat = time(facts.heartbeat),
            active = time(facts.activity),
            parent = if facts.suspended { "hibernated" } else { "online" },
        ))
        .await;
    }

    /// The platform and its operators.
    async fn platform(&mut self) -> (String, String) {
        let of = self.number(WORKSPACES);
        let later = |at: Option<Timestamp>| Some(at.map_or(Timestamp(1_000_000_000_000), |at| at.shifted(1_000_000)));
        let what = self.dice.below(8);
        let status = *self.dice.pick(&STATUSES).unwrap();
        let facts = &mut self.facts[of];
        if !facts.exists {
            *facts = well();
        } else if what == 0 {
            facts.exists = false;
        } else {
            match what {
                1 | 2 => facts.status = status,
                3 => facts.suspended = !facts.suspended,
                4 | 5 => facts.heartbeat = later(facts.heartbeat),
                6 => facts.activity = later(facts.activity),
                _ => facts.status = "online",
            }
        }
        let shown = format!("{facts:?}");
        self.say(format!("platform: w{of} is {shown}"));
        if self.facts[of].exists {
            self.write_row(of).await;
        } else {
            self.run(&format!("delete from defib.workspaces where id = 'w{of}'")).await;
        }
        Default::default()
    }

    async fn hold(&mut self) -> (String, String) {
        if self.dice.chance(0.5) {
            self.say("all holds are released".into());
            self.model.holds.clear();
            self.run("update defib.holds set released_at = now()").await;
            return Default::default();
        }
        let of = self.number(WORKSPACES);
        let (scope, kind, target) = match self.dice.below(3) {
            0 => (HoldScope::Fleet, "fleet", "null".to_owned()),
            1 => (HoldScope::Engine(engine_of(of)), "engine", format!("'{}'", engine_of(of))),
            _ => (HoldScope::Workspace(workspace(of)), "workspace", format!("'w{of}'")),
        };
        let lasts = self.dice.chance(0.7).then(|| self.span());
        self.say(format!("hold {scope:?} for {lasts:?}"));
        self.holds += 1;
        let reason = format!("reason {}", self.holds);
        let end = lasts.map_or_else(|| "null".to_owned(), |lasts| format!("now() + interval '{} s'", lasts.as_secs()));
        self.run(&format!(
            "insert into defib.holds (scope, target, owner, reason, expires_at) values ('{kind}', {target}, 'op', '{reason}', {end})"
        ))
        .await;
        let expires_at = lasts.map(|lasts| NOW.plus(lasts));
        self.model.holds.push(Hold { scope, owner: "op".into(), reason: reason.into(), expires_at });
        Default::default()
    }

    /// A claim hangs in the middle of its transaction, or no longer.
    async fn hang(&mut self) -> (String, String) {
        let engine = engine_of(self.number(3));
        if self.hung.is_some() || self.model.leases.row(&engine).is_none() {
            self.say("no claim hangs any more".into());
            self.let_go().await;
            return Default::default();
        }
        self.say(format!("a claim on {engine} hangs"));
        self.hanging.batch_execute("begin").await.unwrap();
        let lock = format!("select 1 from defib.leases where engine = '{engine}' for key share");
        self.hanging.batch_execute(&lock).await.unwrap();
        self.model.leases.begin_claim(&engine);
        self.hung = Some(engine);
        Default::default()
    }

    async fn let_go(&mut self) {
        if let Some(engine) = self.hung.take() {
            self.hanging.batch_execute("rollback").await.unwrap();
            self.model.leases.end_claim(&engine);
        }
    }

    /// Time passes.
    async fn age(&mut self) -> (String, String) {
        if self.hung.is_some() {
            self.let_go().await; // its row is to be moved
        }
        let days = self.dice.chance(0.05);
        let by = Duration::from_secs(if days { 8 * 86_400 } else { 100 * (1 + self.dice.below(3)) });
        self.say(format!("{by:?} pass"));
        self.model.age(by);
        let by = format!("interval '{} s'", by.as_secs());
        self.run(&format!(
            "update defib.restarts set claimed_at = claimed_at - {by}, deadline_at = deadline_at - {by}, acting_at = acting_at - {by},
                    finished_at = finished_at - {by}, recovered_at = recovered_at - {by}, acknowledged_at = acknowledged_at - {by},
                    run_ended_at = run_ended_at - {by};
             update defib.leases set expires_at = expires_at - {by};
             update defib.replicas set expires_at = expires_at - {by};
             update defib.holds set expires_at = expires_at - {by}"
        ))
        .await;
        Default::default()
    }

    fn modelled_rows(&self) -> String {
        let mut rows = String::new();
        let at = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| rounded_until(at).to_string());
        for row in self.model.rows() {
            let _ = writeln!(
                rows,
                "{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}",
                row.id,
                row.workspace,
                row.engine,
                row.container_id.as_ref().map_or("-", ContainerId::as_str),
                row.started_at.map_or_else(|| "-".to_owned(), |at| (at.0 / 1_000_000).to_string()),
                row.attempt,
                row.epoch,
                row.claimed_by,
                at(Some(row.claimed_at)),
                at(Some(row.deadline_at)),
                at(row.acting_at),
                at(row.finished_at),
                row.outcome.map_or("-", Outcome::label),
                at(row.recovered_at),
                at(row.acknowledged_at),
                at(row.run_ended_at),
            );
        }
        for (engine, row) in self.model.leases.rows() {
            let until = rounded_until(row.expires_at);
            let _ = writeln!(rows, "{engine} {} {} {until}", row.holder, row.epoch);
        }
        for (replica, until) in self.model.leases.replicas() {
            let _ = writeln!(rows, "{replica} {}", rounded_until(until));
        }
        for (of, facts) in self.facts.iter().enumerate().filter(|(_, facts)| facts.exists) {
            let _ = writeln!(rows, "w{of} {}", facts.status);
        }
        for (of, mark) in (0..WORKSPACES).filter_map(|of| Some((of, self.model.mark(of)?))) {
            let Mark { attempt_id, since_attempt, status_before, status, owed } = mark;
            let owed = if *owed { "t" } else { "f" };
            let _ = writeln!(rows, "w{of} {attempt_id} {since_attempt} {status_before} {status} {owed}");
        }
        rows
    }

    async fn real_rows(&self) -> String {
        // As the model's are rounded: to the nearest 50 s from now.
        let at = |column: &str| {
            format!("coalesce(floor((extract(epoch from {column} - clock_timestamp()) + 25) / 50)::text, '-')")
        };
        let sql = format!(
            "select concat_ws(' ', id, workspace_id, engine, coalesce(container_id, '-'),
                              coalesce(extract(epoch from started_at)::bigint::text, '-'), attempt, epoch, claimed_by,
                              {claimed}, {deadline}, {acting}, {finished}, coalesce(outcome, '-'), {recovered}, {acked}, {ended})
               from (select * from defib.restarts order by id) r
             union all
             select concat_ws(' ', engine, holder, epoch, {expires}) from (select * from defib.leases order by engine) l
             union all
             select concat_ws(' ', replica, {expires}) from (select * from defib.replicas order by replica) p
             union all
             select concat_ws(' ', id, status) from (select * from defib.workspaces where id ~ '^w' order by id) w
             union all
             select concat_ws(' ', workspace_id, attempt_id, since_attempt, status_before, status, owed)
               from (select * from defib.marks order by workspace_id) m",
            claimed = at("claimed_at"),
            deadline = at("deadline_at"),
            acting = at("acting_at"),
            finished = at("finished_at"),
            recovered = at("recovered_at"),
            acked = at("acknowledged_at"),
            ended = at("run_ended_at"),
            expires = at("expires_at"),
        );
        let rows = self.client.query(&sql, &[]).await.unwrap();
        rows.iter().fold(String::new(), |text, row| text + row.get::<_, &str>(0) + "\n")
    }
}

fn tell(text: &mut String, attempt: &Attempt) {
    let _ = writeln!(
        text,
        "{} {} {:?} {:?} {} {} {:?} {} {:?} {:?}",
        attempt.id,
        attempt.workspace,
        attempt.container_id,
        attempt.started_at,
        attempt.attempt,
        rounded(attempt.claimed_ago),
        attempt.finished_ago.map(rounded),
        attempt.finished_at.is_some(),
        attempt.outcome,
        attempt.recovered_ago.map(rounded),
    );
}

fn well() -> Facts {
    Facts {
        status: "online",
        suspended: false,
        exists: true,
        heartbeat: Some(Timestamp(1_000_000_000_000)),
        activity: None,
        active_tasks: 0,
    }
}

fn asked_for(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn the_model_answers_as_the_sql_does() {
    let mut trial = Trial::new().await;
    let (first, sequences) = (asked_for("DEFIB_SIM_SEED", 1), asked_for("DEFIB_SIM_SEQUENCES", 200));
    for seed in first..first + sequences {
        if let Err(difference) = trial.sequence(seed, None).await {
            panic!("{difference}");
        }
    }
}

/// A comparison that notices nothing proves nothing.
#[tokio::test]
async fn a_model_with_a_rule_left_out_is_told_from_the_sql() {
    let mut trial = Trial::new().await;
    for weakening in [
        Weakening::ClaimWithoutTheLease,
        Weakening::TwoOpenAttempts,
        Weakening::ActWithoutTheLease,
        Weakening::ActWhenSettled,
        Weakening::ActingNotWritten,
        Weakening::AbandonTheActing,
        Weakening::FinishTwice,
        Weakening::TakeOverBeforeTheEnd,
        Weakening::TakeOverDuringAClaim,
        Weakening::TheEpochStays,
    ] {
        let mut told = false;
        for seed in 1..60 {
            told = told || trial.sequence(seed, Some(weakening)).await.is_err();
        }
        assert!(told, "{weakening:?}");
    }
}

/// The two halves of a turn, and a claim between them, as the locks of the SQL have it (`tests/store/lease.rs` stages the same there).
#[test]
fn a_turn_under_way_and_a_claim_under_way_are_in_each_others_way_as_in_the_database() {
    let engines = [EngineName::from("e0")];
    let (busy, ttl) = (BTreeSet::new(), Duration::from_secs(15));
    let fit = engines.iter().cloned().collect();
    let turn = |replica| lease::LeaseTurn { replica, engines: &engines, fit: &fit, owned: None, busy: &busy, ttl };
    let mut leases = Leases::default();
    assert_eq!(leases.take_lease_turn(&turn("a"), NOW).unwrap().owned[&engines[0]], 1);
    let later = NOW.plus(Duration::from_secs(16));

    leases.begin_claim(&engines[0]);
    assert!(leases.take_lease_turn(&turn("b"), later).unwrap().owned.is_empty(), "not while a claim is under way");
    leases.end_claim(&engines[0]);
    let begun = leases.begin_turn(&turn("b"), later).unwrap();
    assert!(leases.begin_turn(&turn("c"), later).is_none(), "turns follow each other");
    assert_eq!(leases.row(&engines[0]).unwrap().epoch, 1, "not committed");
    assert_eq!(leases.commit_turn(begun, later).owned[&engines[0]], 2);
}
