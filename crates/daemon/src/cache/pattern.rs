//! `DEFIB_REDIS_EVICT`: the names of the keys of a workspace, with a place for its id.

use defib_policy::id::WorkspaceId;

/// The only thing that differs from one workspace to the next.
const PLACEHOLDER: &str = "workspace_id";

/// The name of one key of each workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    WorkspaceId,
}

impl Pattern {
    /// Reads `ws:{workspace_id}:url`. `{{` and `}}` stand for the braces themselves, as Redis Cluster's hash tags need them.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it and what to do.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some(after) = brace.strip_prefix("{{") {
                plain.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                plain.push('}');
                rest = after;
            } else if let Some((name, after)) = brace.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
                if name != PLACEHOLDER {
                    return Err(format!("{{{name}}} is not known: the only placeholder is {{{PLACEHOLDER}}}"));
                }
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::WorkspaceId);
                rest = after;
            } else {
                return Err("it has a brace without its other half: write {{ or }} for a brace that is part of a key"
                    .to_owned());
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        if !parts.contains(&Part::WorkspaceId) {
            return Err(format!(
                "it has no {{{PLACEHOLDER}}}, so it would be the same key for every workspace: write ws:{{{PLACEHOLDER}}}"
            ));
        }
        if text.contains('*') {
            return Err("it has a *, which is not expanded: name each key of a workspace by itself".to_owned());
        }
        Ok(Self(parts))
    }

    /// The key of this workspace.
    pub(crate) fn key(&self, workspace: &WorkspaceId) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::WorkspaceId => workspace.as_str().to_owned(),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_pattern_with_the_id_in_its_place() {
        for (pattern, key) in [
            ("ws:{workspace_id}", "ws:w{1}"),
            ("ws:{workspace_id}:url", "ws:w{1}:url"),
            ("{workspace_id}/{workspace_id}", "w{1}/w{1}"),
            ("{{ws:{workspace_id}}}:url", "{ws:w{1}}:url"),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().key(&"w{1}".into()), key, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused_with_what_to_write() {
        for (pattern, says) in [
            ("ws:url", "the same key for every workspace"),
            ("{{workspace_id}}", "the same key for every workspace"),
            ("ws:{id}", "{id} is not known: the only placeholder is {workspace_id}"),
            ("ws:{workspace_id", "without its other half"),
            ("ws:workspace_id}", "without its other half"),
            ("ws:{workspace_id}:*", "is not expanded"),
        ] {
            let said = Pattern::parse(pattern).unwrap_err();
            assert!(said.contains(says), "{pattern}: {said}");
        }
    }
}
