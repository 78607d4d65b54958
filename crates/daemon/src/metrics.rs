//! The metrics that Prometheus scrapes. Every label value comes from a closed set and exists at zero from the start, so that an alert on a
//! rate sees the first event. No label holds a workspace id or free text.
//!
//! The file is long because a metric is declared, made and set here and nowhere else, so that the three cannot differ.

use std::time::Duration;

use defib_engine::{Call, EngineReport};
use defib_policy::attempt::Outcome;
use defib_policy::id::EngineName;
use defib_policy::reading::Resync;
use defib_policy::sample::Observation;
use defib_policy::settings::Mode;
use defib_policy::verdict::{Held, Verdict};
use defib_record::Condition;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::webhook::result::Delivery;

/// What a pass covers (label `scope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassScope {
    /// A read of the fleet, and the passes over all engines that it led to.
    Fleet,
    /// One pass over all workspaces of one engine.
    Engine,
    /// One pass over a few workspaces.
    Focus,
}

impl PassScope {
    pub(crate) const ALL: [Self; 3] = [Self::Fleet, Self::Engine, Self::Focus];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Engine => "engine",
            Self::Focus => "focus",
        }
    }
}

/// How a pass ended (label `result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassResult {
    Ok,
    /// The database could not be read or written, so there were no verdicts.
    DatabaseError,
    /// At least one engine did not answer; the others were judged.
    EngineError,
}

impl PassResult {
    pub(crate) const ALL: [Self; 3] = [Self::Ok, Self::DatabaseError, Self::EngineError];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::DatabaseError => "database_error",
            Self::EngineError => "engine_error",
        }
    }
}

/// The kind of read that brought rows of the fleet (label `how`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsRead {
    /// Of all rows.
    Resync,
    /// Of what has changed.
    Delta,
    /// Of a few, by their ids.
    Named,
}

impl RowsRead {
    pub(crate) const ALL: [Self; 3] = [Self::Resync, Self::Delta, Self::Named];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Resync => "resync",
            Self::Delta => "delta",
            Self::Named => "named",
        }
    }
}

/// The reasons by which suspicions are counted. What proxies say is mapped to this closed set.
pub(crate) const SUSPICION_REASONS: [&str; 8] =
    ["connect", "timeout", "reset", "http_error", "operator", "too_old", "unknown_workspace", "other"];

/// The platform's own functions, as the store names them in its errors.
pub(crate) const ADAPTER_FUNCTIONS: [&str; 2] = ["mark_dead", "mark_recovered"];

/// What came of deleting the keys of a dead workspace (label `result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// They are gone.
    Deleted,
    /// A try failed. It is made again.
    Failed,
    /// The deletion is not tried any more, because the workspace is back or because it took too long.
    GivenUp,
}

impl Eviction {
    pub(crate) const ALL: [Self; 3] = [Self::Deleted, Self::Failed, Self::GivenUp];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// The reason label of a reported reason.
pub(crate) fn suspicion_reason(reason: &str, http_status: Option<i32>) -> &'static str {
    let reason = reason.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if has(&["operator", "manual"]) {
        "operator"
    } else if has(&["timeout", "timed out", "deadline"]) {
        "timeout"
    } else if has(&["refused", "connect", "unreachable", "dns"]) {
        "connect"
    } else if has(&["reset", "eof", "closed", "broken"]) {
        "reset"
    } else if http_status.is_some() || has(&["http", "status", "5xx", "502", "503", "504"]) {
        "http_error"
    } else {
        "other"
    }
}

/// All metrics of the daemon.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    ticks: IntCounterVec,
    tick_duration: HistogramVec,
    workspaces: IntGaugeVec,
    pub(crate) probe_map_entries: IntGauge,
    probe_map_evictions: IntCounter,
    probe_observations: IntCounterVec,
    suspicions: IntCounterVec,
    verdicts: IntCounterVec,
    restarts: IntCounterVec,
    restarts_held: IntCounterVec,
    restart_duration: HistogramVec,
    detection: Histogram,
    engine_up: IntGaugeVec,
    engine_requests: HistogramVec,
    storm: IntGaugeVec,
    longest: IntGaugeVec,
    mode: IntGaugeVec,
    pub(crate) unowned: IntGauge,
    pub(crate) exhausted: IntGauge,
    pub(crate) holds: IntGauge,
    lease_held: IntGaugeVec,
    pub(crate) database_up: IntGauge,
    pub(crate) heartbeats_usable: IntGauge,
    pub(crate) local_health_multiplier: IntGauge,
    adapter_errors: IntCounterVec,
    evictions: IntCounterVec,
    deliveries: IntCounterVec,
    outbox_pending: IntGauge,
    outbox_unwritten: IntGauge,
    webhook_off: IntGauge,
    recording_bytes: IntGauge,
    recording_written: IntCounter,
    recording_lost: IntCounter,
    resyncs: IntCounterVec,
    rows_read: IntCounterVec,
    last_tick: Gauge,
}

/// Buckets in seconds, from a call on a local socket to a restart with its stop grace.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets in seconds, from a restart that an event led to, to one that waited for `DEFIB_MISSING_GRACE`.
const DETECTION_BUCKETS: [f64; 13] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The declaration of a metric: its name, its labels and its help text.
pub(crate) struct Declared {
    pub(crate) name: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

const fn declared(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Declared {
    Declared { name, labels, help }
}

/// Every metric. The table in `docs/metrics.md` and the help texts of `/metrics` are made from this list.
pub(crate) const HELP: [Declared; 37] = [
    declared(
        "defib_ticks_total",
        &["scope", "result"],
        "Passes, each a look at workspaces and the judging of them, by scope and result",
    ),
    declared("defib_tick_duration_seconds", &["scope"], "How long a pass took"),
    declared("defib_workspaces", &["verdict"], "Workspaces by present verdict"),
    declared(
        "defib_probe_map_entries",
        &[],
        "Workspaces that were lately found stopped, missing or unhealthy, and whose looks are counted",
    ),
    declared(
        "defib_probe_map_evictions_total",
        &[],
        "Workspaces whose counted looks were forgotten because there were more than DEFIB_PROBE_MAP_MAX; counting begins anew",
    ),
    declared(
        "defib_resyncs_total",
        &["reason"],
        "Reads of all rows of the fleet, by why it was not enough to read what had changed",
    ),
    declared(
        "defib_rows_read_total",
        &["how"],
        "Rows of the fleet that the database sent: in a read of all rows (resync), of what had changed (delta), or of a few by their ids (named)",
    ),
    declared("defib_probe_observations_total", &["engine", "sample"], "Samples taken, by engine and what they saw"),
    declared("defib_suspicions_total", &["reason"], "Suspicions taken, by reason"),
    declared("defib_verdicts_total", &["verdict"], "Verdict changes, by new verdict"),
    declared("defib_restarts_total", &["engine", "outcome"], "Restart attempts, by engine and outcome"),
    declared(
        "defib_restarts_held_total",
        &["reason"],
        "Restarts that the evidence called for and that were held back, by reason; counted once, when the reason begins",
    ),
    declared("defib_restart_duration_seconds", &["engine"], "How long the engine took to restart a container"),
    declared(
        "defib_detection_seconds",
        &[],
        "Seconds from the stop of a container, as its engine tells it, to the call that restarts it",
    ),
    declared("defib_engine_up", &["engine"], "1 while the engine answers"),
    declared("defib_engine_request_seconds", &["engine", "call"], "How long calls to an engine took"),
    declared(
        "defib_storm",
        &["engine"],
        "1 while restarts on the engine go in small batches, each verified before the next, because many died at once",
    ),
    declared(
        "defib_workspace_longest_seconds",
        &["verdict"],
        "For each verdict, the longest time that a workspace has had it until now; 0 where nobody has it",
    ),
    declared(
        "defib_unowned_workspaces",
        &[],
        "Workspaces that nobody judges, because no replica is configured for the engine in their row",
    ),
    declared(
        "defib_mode",
        &["mode"],
        "1 for the mode that this replica runs in (DEFIB_MODE); one that observes restarts nobody",
    ),
    declared(
        "defib_exhausted_workspaces",
        &[],
        "Workspaces that many restarts did not help, or not for long; a person has to look at them",
    ),
    declared("defib_holds", &[], "Operators' holds in force; no workspace in their scope is restarted"),
    declared("defib_lease_held", &["engine"], "1 while this replica owns the engine; only the owner restarts"),
    declared("defib_database_up", &[], "1 while the database answers"),
    declared(
        "defib_heartbeats_usable",
        &[],
        "1 while a stale heartbeat counts as evidence; 0 while it does not, because heartbeats may have been missed",
    ),
    declared(
        "defib_local_health_multiplier",
        &[],
        "1 while defib's own passes are quick, up to 8 while they are slow; the waiting times before a restart are multiplied by it",
    ),
    declared(
        "defib_adapter_errors_total",
        &["function"],
        "Calls of the platform's own functions that raised, blocked or took too long",
    ),
    declared(
        "defib_evictions_total",
        &["result"],
        "Tries to delete the keys of a dead workspace in Redis (DEFIB_REDIS_EVICT), by what came of them",
    ),
    declared(
        "defib_webhook_deliveries_total",
        &["result"],
        "Attempts to deliver a message to the webhook, and messages that were given up, by result",
    ),
    declared("defib_outbox_pending", &[], "Messages that wait to be delivered to the webhook"),
    declared(
        "defib_outbox_unwritten",
        &[],
        "Messages that could not even be written, since the schema was made, because defib.outbox was locked or full",
    ),
    declared("defib_webhook_off", &[], "1 while nothing is sent to the webhook because its receiver answered 410"),
    declared(
        "defib_recording_bytes",
        &[],
        "Bytes that all segments of the flight recorder have together (DEFIB_RECORD_DIR)",
    ),
    declared("defib_recording_written_bytes_total", &[], "Bytes that the flight recorder has written"),
    declared(
        "defib_recording_lost_total",
        &[],
        "Calls to the judge that are missing from the recording, because the disk was full, failed or was too slow",
    ),
    declared(
        "defib_last_tick_timestamp_seconds",
        &[],
        "Unix time of the last pass over the whole fleet that could read it",
    ),
    declared("defib_build_info", &["version"], "1, with the version as a label"),
];

fn help(name: &str) -> &'static str {
    HELP.iter().find(|known| known.name == name).map_or("", |known| known.help)
}

impl Metrics {
    /// Makes and registers everything, for these engines.
    ///
    /// # Errors
    /// A name is registered twice, which is a fault in this file.
    pub(crate) fn new(engines: &[EngineName]) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help(name)), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauges = |name: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help(name)), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counter = |name: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::with_opts(Opts::new(name, help(name)))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::with_opts(Opts::new(name, help(name)))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histograms = |name: &str, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let options = HistogramOpts::new(name, help(name)).buckets(BUCKETS.to_vec());
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let detection = Histogram::with_opts(
            HistogramOpts::new("defib_detection_seconds", help("defib_detection_seconds"))
                .buckets(DETECTION_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(detection.clone()))?;
        let last_tick = Gauge::with_opts(Opts::new(
            "defib_last_tick_timestamp_seconds",
            help("defib_last_tick_timestamp_seconds"),
        ))?;
        registry.register(Box::new(last_tick.clone()))?;
        let build = GaugeVec::new(Opts::new("defib_build_info", help("defib_build_info")), &["version"])?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Self {
            ticks: counters("defib_ticks_total", &["scope", "result"])?,
            tick_duration: histograms("defib_tick_duration_seconds", &["scope"])?,
            workspaces: gauges("defib_workspaces", &["verdict"])?,
            probe_map_entries: gauge("defib_probe_map_entries")?,
            probe_map_evictions: counter("defib_probe_map_evictions_total")?,
            probe_observations: counters("defib_probe_observations_total", &["engine", "sample"])?,
            suspicions: counters("defib_suspicions_total", &["reason"])?,
            verdicts: counters("defib_verdicts_total", &["verdict"])?,
            restarts: counters("defib_restarts_total", &["engine", "outcome"])?,
            restarts_held: counters("defib_restarts_held_total", &["reason"])?,
            restart_duration: histograms("defib_restart_duration_seconds", &["engine"])?,
            detection,
            engine_up: gauges("defib_engine_up", &["engine"])?,
            engine_requests: histograms("defib_engine_request_seconds", &["engine", "call"])?,
            storm: gauges("defib_storm", &["engine"])?,
            longest: gauges("defib_workspace_longest_seconds", &["verdict"])?,
            mode: gauges("defib_mode", &["mode"])?,
            unowned: gauge("defib_unowned_workspaces")?,
            exhausted: gauge("defib_exhausted_workspaces")?,
            holds: gauge("defib_holds")?,
            lease_held: gauges("defib_lease_held", &["engine"])?,
            database_up: gauge("defib_database_up")?,
            heartbeats_usable: gauge("defib_heartbeats_usable")?,
            local_health_multiplier: gauge("defib_local_health_multiplier")?,
            adapter_errors: counters("defib_adapter_errors_total", &["function"])?,
            evictions: counters("defib_evictions_total", &["result"])?,
            deliveries: counters("defib_webhook_deliveries_total", &["result"])?,
            outbox_pending: gauge("defib_outbox_pending")?,
            outbox_unwritten: gauge("defib_outbox_unwritten")?,
            webhook_off: gauge("defib_webhook_off")?,
            recording_bytes: gauge("defib_recording_bytes")?,
            recording_written: counter("defib_recording_written_bytes_total")?,
            recording_lost: counter("defib_recording_lost_total")?,
            resyncs: counters("defib_resyncs_total", &["reason"])?,
            rows_read: counters("defib_rows_read_total", &["how"])?,
            last_tick,
            registry,
        };
        metrics.local_health_multiplier.set(1);
        metrics.start_at_zero(engines);
        Ok(metrics)
    }

    fn start_at_zero(&self, engines: &[EngineName]) {
        for scope in PassScope::ALL {
            self.tick_duration.with_label_values(&[scope.label()]);
            for result in PassResult::ALL {
                self.ticks.with_label_values(&[scope.label(), result.label()]);
            }
        }
        for mode in ["enforce", "observe"] {
            self.mode.with_label_values(&[mode]);
        }
        for verdict in Verdict::ALL {
            self.workspaces.with_label_values(&[verdict.label()]);
            self.longest.with_label_values(&[verdict.label()]);
            self.verdicts.with_label_values(&[verdict.label()]);
        }
        for reason in Resync::ALL {
            self.resyncs.with_label_values(&[reason.label()]);
        }
        for how in RowsRead::ALL {
            self.rows_read.with_label_values(&[how.label()]);
        }
        for reason in SUSPICION_REASONS {
            self.suspicions.with_label_values(&[reason]);
        }
        for function in ADAPTER_FUNCTIONS {
            self.adapter_errors.with_label_values(&[function]);
        }
        for result in Eviction::ALL {
            self.evictions.with_label_values(&[result.label()]);
        }
        for result in Delivery::ALL {
            self.deliveries.with_label_values(&[result.label()]);
        }
        for reason in Held::ALL {
            self.restarts_held.with_label_values(&[reason.label()]);
        }
        for engine in engines.iter().map(EngineName::as_str) {
            self.engine_up.with_label_values(&[engine]);
            self.storm.with_label_values(&[engine]);
            self.lease_held.with_label_values(&[engine]);
            self.restart_duration.with_label_values(&[engine]);
            for sample in Observation::LABELS {
                self.probe_observations.with_label_values(&[engine, sample]);
            }
            for outcome in Outcome::ALL {
                self.restarts.with_label_values(&[engine, outcome.label()]);
            }
            for call in Call::ALL {
                self.engine_requests.with_label_values(&[engine, call.label()]);
            }
        }
    }

    pub(crate) fn tick(&self, scope: PassScope, result: PassResult, took: Duration) {
        self.ticks.with_label_values(&[scope.label(), result.label()]).inc();
        self.tick_duration.with_label_values(&[scope.label()]).observe(took.as_secs_f64());
        if scope == PassScope::Fleet && result != PassResult::DatabaseError {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            self.last_tick.set(now.as_secs_f64());
        }
    }

    /// All rows of the fleet were read, for this reason.
    pub(crate) fn resynced(&self, reason: Resync) {
        self.resyncs.with_label_values(&[reason.label()]).inc();
    }

    /// How often all rows of the fleet were read for this reason.
    #[cfg(test)]
    pub(crate) fn resyncs_for(&self, reason: Resync) -> u64 {
        self.resyncs.with_label_values(&[reason.label()]).get()
    }

    /// The database sent so many rows of the fleet.
    pub(crate) fn rows_read(&self, how: RowsRead, rows: usize) {
        self.rows_read.with_label_values(&[how.label()]).inc_by(u64::try_from(rows).unwrap_or(u64::MAX));
    }

    pub(crate) fn engine(&self, report: &EngineReport) {
        let engine = report.engine.as_str();
        self.engine_up.with_label_values(&[engine]).set(i64::from(report.reach.is_ok()));
        for timing in &report.calls {
            self.engine_requests.with_label_values(&[engine, timing.call.label()]).observe(timing.took.as_secs_f64());
        }
        let mut samples = [0; Observation::LABELS.len()];
        for (_, sample) in &report.samples {
            let label = sample.observation.label();
            let place = Observation::LABELS.iter().position(|known| *known == label);
            if let Some(count) = place.and_then(|place| samples.get_mut(place)) {
                *count += 1;
            }
        }
        for (label, count) in Observation::LABELS.into_iter().zip(samples) {
            self.probe_observations.with_label_values(&[engine, label]).inc_by(count);
        }
    }

    /// How many entries of the probe map have been evicted since the start.
    pub(crate) fn evicted(&self, evicted: u64) {
        self.probe_map_evictions.inc_by(evicted.saturating_sub(self.probe_map_evictions.get()));
    }

    /// Sets for each verdict the longest time that a workspace has had it.
    pub(crate) fn longest(&self, longest: &[Duration; Verdict::ALL.len()]) {
        for (verdict, longest) in Verdict::ALL.into_iter().zip(longest) {
            let seconds = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
            self.longest.with_label_values(&[verdict.label()]).set(seconds);
        }
    }

    /// The mode that this replica runs in.
    pub(crate) fn mode(&self, mode: Mode) {
        self.mode.with_label_values(&["enforce"]).set(i64::from(mode == Mode::Enforce));
        self.mode.with_label_values(&["observe"]).set(i64::from(mode == Mode::Observe));
    }

    pub(crate) fn verdicts(&self, counts: &[usize; Verdict::ALL.len()]) {
        for verdict in Verdict::ALL {
            let count = i64::try_from(counts[verdict.index()]).unwrap_or(i64::MAX);
            self.workspaces.with_label_values(&[verdict.label()]).set(count);
        }
    }

    pub(crate) fn verdict_changed(&self, to: Verdict, newly_held: Option<Held>) {
        self.verdicts.with_label_values(&[to.label()]).inc();
        if let Some(held) = newly_held {
            self.restarts_held.with_label_values(&[held.label()]).inc();
        }
    }

    pub(crate) fn held_by_operator(&self) {
        self.restarts_held.with_label_values(&[Held::Operator.label()]).inc();
    }

    /// A function of the platform (one of [`ADAPTER_FUNCTIONS`]) raised, blocked or took too long.
    pub(crate) fn adapter_error(&self, function: &'static str) {
        self.adapter_errors.with_label_values(&[function]).inc();
    }

    /// How the flight recorder is doing.
    pub(crate) fn recording(&self, condition: &Condition) {
        self.recording_bytes.set(i64::try_from(condition.kept).unwrap_or(i64::MAX));
        self.recording_written.inc_by(condition.written.saturating_sub(self.recording_written.get()));
        self.recording_lost.inc_by(condition.lost.saturating_sub(self.recording_lost.get()));
    }

    /// What came of deleting the keys of a dead workspace.
    pub(crate) fn eviction(&self, result: Eviction) {
        self.evictions.with_label_values(&[result.label()]).inc();
    }

    /// What came of messages for the webhook.
    pub(crate) fn told(&self, result: Delivery, messages: u64) {
        self.deliveries.with_label_values(&[result.label()]).inc_by(messages);
    }

    /// Sets how many messages wait, how many could not be written, and whether the webhook is off. `None` if another replica exports these
    /// numbers.
    pub(crate) fn outbox(&self, outbox: Option<(i64, i64, bool)>) {
        let (pending, unwritten, is_off) = outbox.unwrap_or_default();
        self.outbox_pending.set(pending);
        self.outbox_unwritten.set(unwritten);
        self.webhook_off.set(i64::from(is_off));
    }

    pub(crate) fn lease_held(&self, engine: &EngineName, held: bool) {
        self.lease_held.with_label_values(&[engine.as_str()]).set(i64::from(held));
    }

    pub(crate) fn suspicion(&self, reason: &'static str) {
        self.suspicions.with_label_values(&[reason]).inc();
    }

    pub(crate) fn storm(&self, engine: &EngineName, is_storm: bool) {
        self.storm.with_label_values(&[engine.as_str()]).set(i64::from(is_storm));
    }

    pub(crate) fn restart(&self, engine: &EngineName, outcome: Outcome) {
        self.restarts.with_label_values(&[engine.as_str(), outcome.label()]).inc();
    }

    pub(crate) fn restart_took(&self, engine: &EngineName, took: Duration) {
        self.restart_duration.with_label_values(&[engine.as_str()]).observe(took.as_secs_f64());
    }

    pub(crate) fn detected_after(&self, stopped_ago: Duration) {
        self.detection.observe(stopped_ago.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_exists_at_zero_from_the_start_and_has_a_help_text() {
        let metrics = Metrics::new(&["a".into(), "b".into()]).expect("registers");
        let families = metrics.registry.gather();
        for family in &families {
            assert!(!family.help().is_empty(), "{}", family.name());
            assert!(!family.get_metric().is_empty(), "{}", family.name());
        }
        let names: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
        for (family, name) in families.iter().zip(&names) {
            let declared = HELP.iter().find(|known| known.name == *name).expect("a declared metric");
            for metric in family.get_metric() {
                let mut labels: Vec<&str> = metric.get_label().iter().map(prometheus::proto::LabelPair::name).collect();
                let mut expected = declared.labels.to_vec();
                labels.sort_unstable();
                expected.sort_unstable();
                assert_eq!(labels, expected, "{name}");
            }
        }
        assert_eq!(names.len(), HELP.len(), "every declared metric exists");
        let restarts = families.iter().find(|family| family.name() == "defib_restarts_total").expect("restarts");
        assert_eq!(restarts.get_metric().len(), 2 * Outcome::ALL.len());
    }

    #[test]
    fn reasons_fold_into_a_closed_set() {
        for (reason, status, label) in [
            ("connection refused", None, "connect"),
            ("Timed out after 5 s", None, "timeout"),
            ("EOF", None, "reset"),
            ("bad gateway", Some(502), "http_error"),
            ("operator: looks stuck", None, "operator"),
            ("\u{1b}[31mwhatever", None, "other"),
        ] {
            assert_eq!(suspicion_reason(reason, status), label, "{reason}");
            assert!(SUSPICION_REASONS.contains(&label));
        }
    }
}
