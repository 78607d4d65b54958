//! Texts with gaps: paths, headers and bodies of requests.
//!
//! Two kinds of gap, which are filled at two times:
//!
//! - `${app}` is a variable that the operator gave, filled once when the preset is read. `${a|b}` takes the first that was
//!   given; `${org?}` may be missing, and then the header that it stands in is left out.
//! - `{workspace_id}`, `{instance_ref}`, `{cursor}`, `{offset}` and `{page}` are filled for each request.
//!
//! The values of gaps come from a database that others write, or from a server's answer. So that a value cannot change the request around
//! it, it is percent-encoded in a path, and escaped as the inside of a JSON text in a body. In a body, braces that are not a known gap are
//! left as they are.

use std::fmt::Write as _;

use super::document::{At, Place, PresetError};
use super::variables::Variables;

/// What the text is for, and so how gaps are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The beginning of an address, `https://host/base`: taken as it is.
    Base,
    /// What follows it.
    Path,
    /// A header's value: taken as it is.
    Header,
    /// A JSON body.
    Body,
}

/// A gap that is filled for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    Workspace,
    Instance,
    Cursor,
    Offset,
    Page,
}

impl Gap {
    const ALL: [(&'static str, Self); 5] = [
        ("workspace_id", Self::Workspace),
        ("instance_ref", Self::Instance),
        ("cursor", Self::Cursor),
        ("offset", Self::Offset),
        ("page", Self::Page),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(known, gap)| (known == name).then_some(gap))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable { names: Vec<String>, optional: bool },
    Gap(Gap),
}

/// A text as a preset wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    parts: Vec<Part>,
    purpose: Use,
    place: Place,
}

impl Template {
    /// Reads the text. `allowed` are the gaps that make sense there.
    pub(crate) fn parse(text: &At<String>, purpose: Use, allowed: &[Gap]) -> Result<Self, PresetError> {
        let place = &text.place;
        let mut parts = Vec::new();
        let mut rest = text.value.as_str();
        while let Some(at) = rest.find(['$', '{']) {
            let (before, gap) = rest.split_at(at);
            push_text(&mut parts, before);
            if let Some(inner) = gap.strip_prefix("${") {
                let (name, after) = inner.split_once('}').ok_or_else(|| place.error("a ${ is never closed by a }"))?;
                parts.push(variable(name, purpose, place)?);
                rest = after;
            } else if let Some((gap, after)) = named_gap(gap) {
                if !allowed.contains(&gap) {
                    return Err(place.error(format!("{} has no value here", gap_name(gap))));
                }
                parts.push(Part::Gap(gap));
                rest = after;
            } else if purpose == Use::Body || gap.starts_with('$') {
                push_text(&mut parts, &gap[..1]);
                rest = &gap[1..];
            } else {
                let known: Vec<_> = Gap::ALL.iter().map(|(name, _)| format!("{{{name}}}")).collect();
                return Err(
                    place.error(format!("this brace does not begin a known gap; known are {}", known.join(", ")))
                );
            }
        }
        push_text(&mut parts, rest);
        Ok(Self { parts, purpose, place: place.clone() })
    }

    /// Fills the variables. `None` if an optional one was not given.
    pub(crate) fn resolve(&self, variables: &Variables) -> Result<Option<Filled>, PresetError> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            match part {
                Part::Variable { names, optional } => match names.iter().find_map(|name| variables.get(name)) {
                    Some(value) => push_text(&mut parts, &self.purpose.written(value)),
                    None if *optional => return Ok(None),
                    None => {
                        let name = names.last().map_or("", String::as_str);
                        let how = variables.how_to_give(name);
                        return Err(self.place.error(format!("${{{}}} is not given: {how}", names.join("|"))));
                    }
                },
                Part::Text(text) => push_text(&mut parts, text),
                Part::Gap(gap) => parts.push(Part::Gap(*gap)),
            }
        }
        Ok(Some(Filled { parts, purpose: self.purpose }))
    }
}

/// A template whose variables are filled. Holds secrets, so it cannot be printed.
#[derive(Clone)]
pub(crate) struct Filled {
    parts: Vec<Part>,
    purpose: Use,
}

/// What goes into the gaps of one request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    pub(crate) workspace: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) cursor: &'a str,
    pub(crate) offset: usize,
    pub(crate) page: usize,
}

impl Filled {
    /// Whether a gap of this kind is in it.
    pub(crate) fn has(&self, gap: Gap) -> bool {
        self.parts.contains(&Part::Gap(gap))
    }

    /// The text for one request. `None` if a reference is empty, `.` or `..`. Servers take the last two for "this directory" and "its
    /// parent", even if they are percent-encoded.
    pub(crate) fn fill(&self, values: Values<'_>) -> Option<String> {
        let mut text = String::new();
        // The `?` or `&` that stood before a parameter that was left out, until something comes after it.
        let mut left_out = None;
        for part in &self.parts {
            match part {
                Part::Text(plain) => {
                    match left_out.take().and_then(|mark: char| Some((mark, plain.strip_prefix('&')?))) {
                        Some((mark, rest)) => {
                            text.push(mark);
                            text.push_str(rest);
                        }
                        None => text.push_str(plain),
                    }
                }
                Part::Gap(Gap::Cursor) if values.cursor.is_empty() => left_out = leave_parameter_out(&mut text),
                Part::Gap(Gap::Workspace) => text.push_str(&self.reference(values.workspace)?),
                Part::Gap(Gap::Instance) => text.push_str(&self.reference(values.instance)?),
                Part::Gap(Gap::Cursor) => text.push_str(&self.purpose.written(values.cursor)),
                Part::Gap(Gap::Offset) => text.push_str(&values.offset.to_string()),
                Part::Gap(Gap::Page) => text.push_str(&values.page.to_string()),
                Part::Variable { .. } => return None, // there are none after `resolve`
            }
        }
        Some(text)
    }

    fn reference(&self, value: &str) -> Option<String> {
        (!matches!(value, "" | "." | "..")).then(|| self.purpose.written(value))
    }
}

impl Use {
    fn written(self, value: &str) -> String {
        match self {
            Self::Base | Self::Header => value.to_owned(),
            Self::Path => percent_encoded(value),
            Self::Body => {
                let quoted = serde_json::Value::from(value).to_string();
                quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
            }
        }
    }
}

/// Percent-encodes every character that may have a meaning in an address.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing into a text cannot fail
        }
    }
    encoded
}

/// Removes the parameter of the cursor from the request for the first page, which has no cursor yet: servers refuse an empty one. Returns
/// the `?` or `&` that stood before it.
fn leave_parameter_out(text: &mut String) -> Option<char> {
    let at = text.rfind(['?', '&'])?;
    if !text.ends_with('=') {
        return None;
    }
    let mark = text[at..].chars().next();
    text.truncate(at);
    mark
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn named_gap(text: &str) -> Option<(Gap, &str)> {
    let (name, after) = text.strip_prefix('{')?.split_once('}')?;
    Some((Gap::named(name)?, after))
}

fn gap_name(gap: Gap) -> String {
    Gap::ALL.iter().find(|(_, known)| *known == gap).map_or_else(String::new, |(name, _)| format!("{{{name}}}"))
}

fn variable(inner: &str, purpose: Use, place: &Place) -> Result<Part, PresetError> {
    let (inner, optional) = inner.strip_suffix('?').map_or((inner, false), |inner| (inner, true));
    if optional && !matches!(purpose, Use::Header | Use::Base) {
        return Err(place.error("only a header or a base may be left out, so ${…?} has no meaning here"));
    }
    let names: Vec<String> = inner.split('|').map(|name| name.trim().to_owned()).collect();
    let is_name = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    if !names.iter().all(is_name) {
        return Err(place.error("a variable is written ${name}, ${one|another} or ${name?}"));
    }
    Ok(Part::Variable { names, optional })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: [Gap; 5] = [Gap::Workspace, Gap::Instance, Gap::Cursor, Gap::Offset, Gap::Page];

    fn template(text: &str, purpose: Use) -> Result<Template, PresetError> {
        Template::parse(&At { value: text.into(), place: Place::nowhere() }, purpose, &ANY)
    }

    fn filled(text: &str, purpose: Use, values: Values<'_>) -> Option<String> {
        let variables = Variables::of(&[("app", "my app"), ("token", "t0ken"), ("empty", "")]);
        template(text, purpose).unwrap().resolve(&variables).unwrap()?.fill(values)
    }

    #[test]
    fn a_value_in_a_gap_cannot_change_the_request_around_it() {
        let nasty = Values { workspace: "a/b?c=\"d\"&é", instance: "i-1", cursor: "x+y", offset: 20, page: 3 };
        for (text, purpose, expected) in [
            ("/w/{workspace_id}", Use::Path, "/w/a%2Fb%3Fc%3D%22d%22%26%C3%A9"),
            ("/apps/${app}/m/{instance_ref}", Use::Path, "/apps/my%20app/m/i-1"),
            ("/l?c={cursor}&o={offset}&p={page}", Use::Path, "/l?c=x%2By&o=20&p=3"),
            ("Bearer ${token}", Use::Header, "Bearer t0ken"),
            ("Bearer ${other|token}", Use::Header, "Bearer t0ken"),
            ("${empty|app}", Use::Header, "my app"),
            (r#"{"id": "{workspace_id}", "x": {}}"#, Use::Body, r#"{"id": "a/b?c=\"d\"&é", "x": {}}"#),
            ("a$b", Use::Header, "a$b"),
            ("", Use::Body, ""),
        ] {
            assert_eq!(filled(text, purpose, nasty).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn the_first_page_is_asked_for_without_a_cursor() {
        for (path, expected) in [
            ("/l?cursor={cursor}", "/l"),
            ("/l?cursor={cursor}&limit=9", "/l?limit=9"),
            ("/l?limit=9&cursor={cursor}", "/l?limit=9"),
            ("/l?a=1&cursor={cursor}&b=2", "/l?a=1&b=2"),
            ("/l/{cursor}", "/l/"),
        ] {
            assert_eq!(filled(path, Use::Path, Values::default()).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn an_optional_variable_leaves_its_header_out() {
        for text in ["${org?}", "x ${none|empty?}"] {
            assert_eq!(filled(text, Use::Header, Values::default()), None);
        }
    }

    #[test]
    fn a_reference_that_would_lead_elsewhere_is_not_sent() {
        for reference in ["", ".", ".."] {
            let values = Values { instance: reference, ..Values::default() };
            assert_eq!(filled("/m/{instance_ref}", Use::Path, values), None, "{reference:?}");
        }
    }

    #[test]
    fn each_fault_of_a_template_is_named() {
        for (text, purpose, expected) in [
            ("/{workspace}", Use::Path, "known are {workspace_id}, {instance_ref}, "),
            ("/{workspace_id", Use::Path, "this brace does not begin a known gap"),
            ("${token", Use::Header, "never closed"),
            ("${}", Use::Header, "a variable is written"),
            ("${a b}", Use::Header, "a variable is written"),
            ("/x?o=${org?}", Use::Path, "only a header or a base"),
        ] {
            let error = template(text, purpose).expect_err(text).to_string();
            assert!(error.contains(expected), "{text} gave {error}");
        }
        let text = At { value: "/l?c={cursor}".to_owned(), place: Place::nowhere() };
        let error = Template::parse(&text, Use::Path, &[Gap::Instance]).unwrap_err().to_string();
        assert_eq!(error, "test, `key`: {cursor} has no value here");
        let error = template("${nope|other}", Use::Header).unwrap().resolve(&Variables::default()).err().unwrap();
        assert!(error.to_string().contains("${nope|other} is not given: add other=… to the address"), "{error}");
    }
}
