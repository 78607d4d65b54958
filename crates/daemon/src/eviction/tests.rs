//! The evictor on a cache in memory, in paused time.

use async_trait::async_trait;

use super::*;
use crate::clock;
use crate::metrics::Metrics;

const SECOND: Duration = Duration::from_secs(1);

/// A cache that answers, refuses or hangs.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hangs: bool,
    refuses: bool,
    /// Keys that are refused whatever else is well.
    forbidden: Vec<String>,
    deleted: Vec<String>,
    tries: usize,
}

#[async_trait]
impl Keys for Fake {
    async fn delete(&self, keys: &[String]) -> Result<(), String> {
        let hangs = {
            let mut state = lock(&self.state);
            state.tries += 1;
            state.hangs
        };
        if hangs {
            tokio::time::sleep(2 * SECOND).await;
            return Err("no answer in time".to_owned());
        }
        let mut state = lock(&self.state);
        if state.refuses || keys.iter().any(|key| state.forbidden.contains(key)) {
            return Err("refused".to_owned());
        }
        state.deleted.extend_from_slice(keys);
        Ok(())
    }
}

struct Stage {
    evictor: Arc<Evictor>,
    fake: Arc<Fake>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

fn stage() -> Stage {
    let (fake, metrics) = (Arc::new(Fake::default()), Arc::new(Metrics::new(&[]).unwrap()));
    let patterns = ["ws:{workspace_id}", "ws:{workspace_id}:url"].map(|text| Pattern::parse(text).unwrap());
    let news = EvictionNews::new(Arc::clone(&metrics));
    let cache = Arc::clone(&fake) as Arc<dyn Keys>;
    let evictor = Arc::new(Evictor::new(patterns.into(), cache, clock::monotonic(), news));
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&evictor).run(stop.clone()));
    Stage { evictor, fake, metrics, stop }
}

impl Stage {
    /// Evicts, and tells how long a restart waited for it.
    async fn evict(&self, workspace: &str) -> Duration {
        let begun = tokio::time::Instant::now();
        self.evictor.evict(&workspace.into()).await;
        begun.elapsed()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.fake.state));
    }

    fn deleted(&self) -> Vec<String> {
        lock(&self.fake.state).deleted.clone()
    }

    fn counted(&self, result: &str) -> String {
        let families = self.metrics.registry.gather();
        let family = families.iter().find(|family| family.name() == "defib_evictions_total").unwrap();
        let of = |metric: &&prometheus::proto::Metric| metric.get_label()[0].value() == result;
        family
            .get_metric()
            .iter()
            .find(of)
            .map_or_else(String::new, |metric| metric.get_counter().get_value().to_string())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn the_keys_are_gone_before_the_engine_is_asked() {
    let stage = stage();
    assert_eq!(stage.evict("w1").await, Duration::ZERO);
    assert_eq!(stage.deleted(), ["ws:w1", "ws:w1:url"]);
    assert_eq!([stage.counted("deleted"), stage.counted("failed")], ["1", "0"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_costs_one_restart_its_bound_and_the_others_nothing() {
    let stage = stage();
    stage.set(|cache| cache.hangs = true);
    assert_eq!(stage.evict("w1").await, BEFORE_CALL_MAX);
    for workspace in ["w2", "w3", "w4"] {
        assert_eq!(stage.evict(workspace).await, Duration::ZERO, "{workspace}");
    }
    tokio::time::sleep(60 * SECOND).await;
    assert!(stage.deleted().is_empty());
    stage.set(|cache| cache.hangs = false);
    tokio::time::sleep(RETRY_MAX + 3 * SECOND).await;
    assert_eq!(stage.deleted().len(), 8, "{:?}", stage.deleted());
    assert_eq!(stage.counted("deleted"), "4");
    stage.set(|cache| cache.hangs = true);
    assert_eq!(stage.evict("w5").await, BEFORE_CALL_MAX, "it is waited for again, since it worked");
}

#[tokio::test(start_paused = true)]
async fn tries_become_rarer_while_it_is_away() {
    let stage = stage();
    stage.set(|cache| cache.refuses = true);
    stage.evict("w1").await;
    tokio::time::sleep(600 * SECOND).await;
    let tries = lock(&stage.fake.state).tries;
    assert!((115..=135).contains(&tries), "{tries} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_one_that_is_back_are_not_deleted_any_more() {
    let stage = stage();
    stage.set(|cache| cache.refuses = true);
    stage.evict("w1").await;
    stage.evict("w2").await;
    stage.evictor.is_over(&"w1".into());
    stage.set(|cache| cache.refuses = false);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(stage.deleted(), ["ws:w2", "ws:w2:url"]);
    assert_eq!([stage.counted("deleted"), stage.counted("given_up")], ["1", "1"]);
}

#[tokio::test(start_paused = true)]
async fn one_whose_keys_are_refused_keeps_nobody_elses() {
    let stage = stage();
    stage.set(|cache| cache.forbidden = vec!["ws:w000".to_owned()]);
    stage.evict("w000").await;
    for number in 1..200 {
        stage.evict(&format!("w{number:03}")).await;
    }
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(stage.counted("deleted"), "199");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_for_ever() {
    let stage = stage();
    stage.set(|cache| cache.refuses = true);
    for number in 0..WAITING_MAX + 5 {
        stage.evict(&number.to_string()).await;
    }
    assert_eq!(stage.counted("given_up"), "5", "there is no room for more");
    tokio::time::sleep(GIVE_UP_AFTER + RETRY_MAX).await;
    assert!(lock(&stage.evictor.waiting).by_workspace.is_empty());
}
