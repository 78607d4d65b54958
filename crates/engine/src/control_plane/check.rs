//! What `defib check` tells of a control plane.

use std::collections::BTreeMap;

use defib_policy::fleet::Kind as WorkspaceKind;

use super::ControlPlane;
use super::answer::Understood;
use super::list;
use super::look::{Look, within};
use super::rate::Urgency;
use crate::engine::{AnswerSeen, EngineCheck, Explanation};
use crate::{Call, EngineError, Target};

/// How many instances are asked about one by one.
const EXAMPLES_MAX: usize = 5;

/// Reads the list, where the interface has one, to see whether the control plane can be reached. Without a list nothing is asked, because
/// every other request is about an instance.
pub(super) async fn reach(plane: &ControlPlane) -> Result<EngineCheck, EngineError> {
    let line = &plane.line;
    let mut instances = None;
    if let Some(list) = &line.api.list {
        let listing =
            list::read(&Look::begin(plane), list, Urgency::Urgent).await.map_err(|no_list| EngineError::Call {
                engine: plane.settings.name.clone(),
                call: Call::List,
                fault: no_list.fault,
                source: no_list.complaint.into(),
            })?;
        instances = Some(listing.entries.len());
    }
    Ok(EngineCheck::ControlPlane { preset: line.preset.clone(), address: line.api.base.clone(), instances })
}

/// Asks about the instances of the list and about `examples`, and shows how each answer was understood.
pub(super) async fn explain(plane: &ControlPlane, examples: &[Target]) -> Explanation {
    let mut explanation = Explanation { faults: Vec::new(), answers: Vec::new() };
    let line = &plane.line;
    let mut heap = Heap::default();
    if line.api.base.starts_with("https:") && line.roots == 0 {
        explanation.faults.push(
            "no certificate authority is trusted, so no https:// address can be reached: install ca-certificates, or append \
             ca=/path/of/a/file.pem to the address"
                .to_owned(),
        );
    }
    let named: Vec<_> = examples
        .iter()
        .filter(|target| target.kind == WorkspaceKind::Instance)
        .filter_map(|target| plane.reference(target).map(|reference| (target, reference)))
        .collect();
    if let Some(list) = &line.api.list {
        match list::read(&Look::begin(plane), list, Urgency::Urgent).await {
            Ok(listing) => {
                let known = |reference: &&(&Target, &str)| listing.entries.contains_key(reference.1);
                if !named.is_empty() && !named.iter().any(|one| known(&one)) {
                    explanation.faults.push(format!(
                        "its list has {} instances, and none of them is an instance_ref of defib.fleet (such as {:?}): check that \
                        `id` in [list] points to the name that instance_ref holds, and that the token is that of the right tenant",
                        listing.entries.len(),
                        named[0].1
                    ));
                }
                for (reference, understood) in listing.entries {
                    match understood {
                        Some(understood) => heap.add(&reference, understood),
                        None => explanation.faults.push(format!("its list has {reference:?} more than once")),
                    }
                }
            }
            Err(no_list) => explanation.faults.push(format!("its list: {}", no_list.complaint)),
        }
    }
    if let Some(get) = &line.api.get {
        for (target, reference) in named.into_iter().take(EXAMPLES_MAX) {
            let by = within(plane.settings.call_timeout);
            match Look::begin(plane).get(get, &target.workspace, reference, Urgency::Urgent, by).await {
                Ok(understood) => heap.add(reference, understood),
                Err(_) => {
                    explanation
                        .faults
                        .push("no request could be sent in time: it asked for a pause, or `rate` is too low".into());
                }
            }
        }
    }
    explanation.answers = heap.into_answers();
    explanation.faults.dedup();
    explanation
}

/// Answers that were understood alike.
#[derive(Default)]
struct Heap(BTreeMap<Kind, (usize, String)>);

/// The interface's word, the observation that it was understood as, and why it is no evidence, if it is none.
type Kind = (Option<String>, &'static str, Option<String>);

impl Heap {
    fn add(&mut self, reference: &str, understood: Understood) {
        let key = (understood.word, understood.observation.label(), understood.complaint);
        let (count, _) = self.0.entry(key).or_insert_with(|| (0, reference.to_owned()));
        *count += 1;
    }

    fn into_answers(self) -> Vec<AnswerSeen> {
        let answer = |((word, understood, complaint), (count, example))| AnswerSeen {
            word,
            understood,
            count,
            example,
            complaint,
        };
        self.0.into_iter().map(answer).collect()
    }
}
