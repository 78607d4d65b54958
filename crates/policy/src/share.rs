//! Which replica should own which engine.
//!
//! Every replica computes this on the same rows, inside the transaction that holds the leases' lock, and so comes to the same
//! answer without talking to the others. Three wishes, in this order: an engine stays where it is (its owner is warm), nobody
//! owns two more than another who could take one, and what is free goes to whoever has least.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::EngineName;

/// How many engines move between live replicas in one round, at most. The next round evens out the rest.
const MOVES_MAX: usize = 10_000;

/// A replica that has reported lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// `DEFIB_REPLICA_ID`.
    pub name: Box<str>,
    /// The engines that it is configured for.
    pub engines: BTreeSet<EngineName>,
    /// Those of them that it can act on.
    pub fit: BTreeSet<EngineName>,
}

/// The engines that each replica may own. It must be configured for them, and be able to act on them, unless no replica can.
#[must_use]
pub fn able(replicas: &[Replica]) -> BTreeMap<&str, BTreeSet<&EngineName>> {
    let somebody_is_fit: BTreeSet<&EngineName> = replicas.iter().flat_map(|replica| &replica.fit).collect();
    replicas
        .iter()
        .map(|replica| {
            let may = |engine: &&EngineName| replica.fit.contains(*engine) || !somebody_is_fit.contains(*engine);
            (&*replica.name, replica.engines.iter().filter(may).collect())
        })
        .collect()
}

/// The owner that each engine should have: `live` are the replicas that were heard of lately with the engines that each is
/// configured for, `held` the leases that have not expired. Engines that no live replica is configured for are left out.
#[must_use]
pub fn owners<'a>(
    live: &BTreeMap<&'a str, BTreeSet<&'a EngineName>>,
    held: &BTreeMap<&'a EngineName, &'a str>,
) -> BTreeMap<&'a EngineName, &'a str> {
    let can = |replica: &str, engine: &EngineName| live.get(replica).is_some_and(|engines| engines.contains(engine));
    let mut owners: BTreeMap<&EngineName, &str> =
        held.iter().filter(|(engine, holder)| can(holder, engine)).map(|(engine, holder)| (*engine, *holder)).collect();
    let mut load: BTreeMap<&str, usize> = live.keys().map(|replica| (*replica, 0)).collect();
    for holder in owners.values() {
        *load.entry(holder).or_default() += 1;
    }

    let engines: BTreeSet<&EngineName> = live.values().flatten().copied().collect();
    for engine in engines {
        if owners.contains_key(engine) {
            continue;
        }
        let able = load.iter().filter(|(replica, _)| can(replica, engine));
        if let Some(least) = able.min_by_key(|(replica, owned)| (**owned, **replica)).map(|(replica, _)| *replica) {
            owners.insert(engine, least);
            *load.entry(least).or_default() += 1;
        }
    }

    // Each move brings two loads closer together, so this ends long before its ceiling.
    for _ in 0..MOVES_MAX {
        let Some((engine, from, to)) = uneven(&owners, &load, can) else { break };
        owners.insert(engine, to);
        *load.entry(from).or_default() -= 1;
        *load.entry(to).or_default() += 1;
    }
    owners
}

/// The first engine whose owner has at least two more engines than another replica that could own it, together with the replica of those
/// that has least.
fn uneven<'a>(
    owners: &BTreeMap<&'a EngineName, &'a str>,
    load: &BTreeMap<&'a str, usize>,
    can: impl Fn(&str, &EngineName) -> bool,
) -> Option<(&'a EngineName, &'a str, &'a str)> {
    let owned = |replica: &str| load.get(replica).copied().unwrap_or_default();
    owners.iter().find_map(|(engine, owner)| {
        let able = load.iter().filter(|(replica, _)| can(replica, engine));
        let (least, has) = able.min_by_key(|(replica, owned)| (**owned, **replica))?;
        (has + 2 <= owned(owner)).then_some((*engine, *owner, *least))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engines(names: &[&str]) -> Vec<EngineName> {
        names.iter().map(|name| EngineName::from(*name)).collect()
    }

    /// `live` as `replica: engines it is configured for`, `held` as `engine: holder`.
    fn shares(live: &[(&str, &[&str])], held: &[(&str, &str)]) -> Vec<String> {
        let of: Vec<(&str, Vec<EngineName>)> = live.iter().map(|(replica, names)| (*replica, engines(names))).collect();
        let live = of.iter().map(|(replica, names)| (*replica, names.iter().collect())).collect();
        let held: Vec<(EngineName, &str)> = held.iter().map(|(engine, holder)| ((*engine).into(), *holder)).collect();
        let held = held.iter().map(|(engine, holder)| (engine, *holder)).collect();
        owners(&live, &held).into_iter().map(|(engine, owner)| format!("{engine}:{owner}")).collect()
    }

    #[test]
    fn who_can_act_on_an_engine_goes_before_who_can_not() {
        let replica = |name: &str, fit: &[&str]| Replica {
            name: name.into(),
            engines: engines(&["e1", "e2"]).into_iter().collect(),
            fit: engines(fit).into_iter().collect(),
        };
        let may = |replicas: &[Replica]| -> Vec<String> {
            let able = able(replicas).into_iter();
            able.map(|(name, engines)| format!("{name}:{}", engines.iter().map(|it| it.as_str()).collect::<String>()))
                .collect()
        };
        assert_eq!(may(&[replica("a", &["e1"]), replica("b", &["e1", "e2"])]), ["a:e1", "b:e1e2"]);
        assert_eq!(may(&[replica("a", &["e1"]), replica("b", &[])]), ["a:e1e2", "b:e2"], "nobody is fit for e2");
        assert_eq!(may(&[replica("a", &[])]), ["a:e1e2"]);
    }

    #[test]
    fn free_engines_are_spread() {
        let all: &[&str] = &["e1", "e2", "e3"];
        assert_eq!(shares(&[("a", all)], &[]), ["e1:a", "e2:a", "e3:a"]);
        assert_eq!(shares(&[("a", all), ("b", all)], &[]), ["e1:a", "e2:b", "e3:a"]);
        assert_eq!(shares(&[("a", all), ("b", all), ("c", all), ("d", all)], &[]), ["e1:a", "e2:b", "e3:c"]);
    }

    #[test]
    fn an_engine_stays_where_it_is_unless_that_is_two_more_than_another_has() {
        let all: &[&str] = &["e1", "e2", "e3"];
        let live = [("a", all), ("b", all)];
        assert_eq!(shares(&live, &[("e1", "b"), ("e2", "b"), ("e3", "a")]), ["e1:b", "e2:b", "e3:a"]);
        assert_eq!(shares(&live, &[("e1", "b"), ("e2", "b"), ("e3", "b")]), ["e1:a", "e2:b", "e3:b"], "one joined");
        assert_eq!(shares(&[("a", &["e"]), ("b", &["e"])], &[("e", "b")]), ["e:b"]);
        let two: &[&str] = &["e1", "e2"];
        assert_eq!(
            shares(&[("a", two), ("b", two)], &[("e1", "b"), ("e2", "b")]),
            ["e1:a", "e2:b"],
            "two more is enough"
        );
    }

    #[test]
    fn what_a_gone_replica_held_goes_to_whoever_has_least() {
        let all: &[&str] = &["e1", "e2", "e3"];
        let held = [("e1", "a"), ("e2", "gone"), ("e3", "b")];
        assert_eq!(shares(&[("a", all), ("b", all), ("c", all)], &held), ["e1:a", "e2:c", "e3:b"]);
    }

    #[test]
    fn nobody_is_given_an_engine_that_it_is_not_configured_for() {
        let live: [(&str, &[&str]); 2] = [("a", &["e1", "e2", "e3"]), ("b", &["e9"])];
        assert_eq!(shares(&live, &[]), ["e1:a", "e2:a", "e3:a", "e9:b"]);
        assert_eq!(shares(&live, &[("e9", "a"), ("e5", "a")]), ["e1:a", "e2:a", "e3:a", "e9:b"], "reconfigured since");
        assert!(shares(&[], &[("e1", "a")]).is_empty());
    }
}
