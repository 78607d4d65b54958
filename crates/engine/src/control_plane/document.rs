//! A preset's text, read so that every complaint names its line and its key.
//!
//! The values are read by hand from TOML's own tables and not by deserializing into a struct, for two reasons: the tables
//! remember where each value stands, and serde's messages repeat the value that was wrong, which in a preset may be a
//! secret that somebody wrote into a header.

use std::fmt;
use std::ops::Range;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// What is wrong with a preset, and where. Never repeats a value: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresetError {
    /// What is being read: `preset coder`, `the engine's address`.
    origin: String,
    /// The line, from 1. `None` where the whole preset is meant.
    line: Option<usize>,
    /// The key, with its tables: `get.state`.
    key: Option<String>,
    what: String,
}

impl PresetError {
    /// A complaint about the preset as a whole.
    pub(crate) fn of_all(origin: &str, what: impl Into<String>) -> Self {
        Self { origin: origin.to_owned(), line: None, key: None, what: what.into() }
    }
}

impl fmt::Display for PresetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", `{key}`")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for PresetError {}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    origin: String,
    line: Option<usize>,
    key: String,
}

impl Place {
    /// A complaint about the value here.
    pub(crate) fn error(&self, what: impl Into<String>) -> PresetError {
        PresetError {
            origin: self.origin.clone(),
            line: self.line,
            key: (!self.key.is_empty()).then(|| self.key.clone()),
            what: what.into(),
        }
    }

    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self { origin: "test".into(), line: None, key: "key".into() }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// Parses a whole text.
pub(crate) fn parse<'t>(origin: &'t str, text: &'t str) -> Result<Table<'t>, PresetError> {
    let source = Source { origin, text };
    let root = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| source.line(&span));
        PresetError {
            origin: origin.to_owned(),
            line,
            key: None,
            what: format!("this is not TOML: {}", error.message()),
        }
    })?;
    let span = root.span();
    Ok(Table { source, values: root.into_inner(), path: String::new(), span })
}

#[derive(Clone, Copy)]
struct Source<'t> {
    origin: &'t str,
    text: &'t str,
}

impl Source<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        1 + String::from_utf8_lossy(before).matches('\n').count()
    }

    fn place(&self, span: &Range<usize>, key: String) -> Place {
        Place { origin: self.origin.to_owned(), line: Some(self.line(span)), key }
    }
}

/// A table of a preset. The reader takes the values that it knows out of it, so a key that is left at the end is one that defib does not
/// know.
pub(crate) struct Table<'t> {
    source: Source<'t>,
    values: DeTable<'t>,
    path: String,
    span: Range<usize>,
}

impl<'t> Table<'t> {
    /// Where the table itself begins.
    pub(crate) fn place(&self) -> Place {
        if self.path.is_empty() {
            return Place { origin: self.source.origin.to_owned(), line: None, key: String::new() };
        }
        self.source.place(&self.span, self.path.clone())
    }

    /// Refuses the table if a key is left in it. If a misspelt key were silently ignored, the preset would do something that nobody wrote.
    pub(crate) fn finish(self, known: &[&str]) -> Result<(), PresetError> {
        let Some((key, value)) = self.values.iter().next() else { return Ok(()) };
        let place = self.source.place(&value.span(), self.key(key.get_ref()));
        Err(place.error(format!("there is no such key; known here are {}", known.join(", "))))
    }

    /// A table in this one.
    pub(crate) fn table(&mut self, key: &str) -> Result<Option<Self>, PresetError> {
        let Some((value, span)) = self.take(key) else { return Ok(None) };
        let path = self.key(key);
        match value {
            DeValue::Table(table) => Ok(Some(Self { source: self.source, values: table, path, span })),
            _ => Err(self.source.place(&span, path).error("this has to be a table")),
        }
    }

    /// Tables in an array, or in `[[brackets]]`.
    pub(crate) fn tables(&mut self, key: &str) -> Result<Option<At<Vec<Self>>>, PresetError> {
        let Some((value, span)) = self.take(key) else { return Ok(None) };
        let place = self.source.place(&span, self.key(key));
        let DeValue::Array(items) = value else { return Err(place.error("this has to be a list of tables")) };
        let table = |(index, item): (usize, toml::Spanned<DeValue<'t>>)| {
            let (path, span) = (format!("{}[{index}]", self.key(key)), item.span());
            match item.into_inner() {
                DeValue::Table(table) => Ok(Self { source: self.source, values: table, path, span }),
                _ => Err(self.source.place(&span, path).error("this has to be a table")),
            }
        };
        let value = items.into_iter().enumerate().map(table).collect::<Result<_, _>>()?;
        Ok(Some(At { value, place }))
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &str) -> Result<Option<At<String>>, PresetError> {
        let Some((value, span)) = self.take(key) else { return Ok(None) };
        let place = self.source.place(&span, self.key(key));
        match value {
            DeValue::String(text) => Ok(Some(At { value: text.into_owned(), place })),
            _ => Err(place.error("this has to be a text in quotes")),
        }
    }

    /// A text that must be there.
    pub(crate) fn needed_text(&mut self, key: &str) -> Result<At<String>, PresetError> {
        let missing = self.place().error(format!("`{key}` is missing"));
        self.text(key)?.ok_or(missing)
    }

    /// Every text of a table whose keys are free.
    pub(crate) fn all_texts(self) -> Result<Vec<(String, At<String>)>, PresetError> {
        let Self { source, values, path, .. } = self;
        let text = |(key, value): (toml::Spanned<toml::de::DeString<'t>>, toml::Spanned<DeValue<'t>>)| {
            let key = key.into_inner().into_owned();
            let place = source.place(&value.span(), format!("{path}.{key}"));
            match value.into_inner() {
                DeValue::String(text) => Ok((key, At { value: text.into_owned(), place })),
                _ => Err(place.error("this has to be a text in quotes")),
            }
        };
        values.into_iter().map(text).collect()
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, key: &str) -> Result<Option<At<Vec<String>>>, PresetError> {
        self.list(key, "this has to be a list of texts", |item| match item {
            DeValue::String(text) => Some(text.into_owned()),
            _ => None,
        })
    }

    /// A list of HTTP status codes.
    pub(crate) fn statuses(&mut self, key: &str) -> Result<Option<At<Vec<u16>>>, PresetError> {
        self.list(key, "this has to be a list of HTTP status codes, as in [200, 202]", |item| status(&item))
    }

    /// One HTTP status code.
    pub(crate) fn status(&mut self, key: &str) -> Result<Option<At<u16>>, PresetError> {
        let Some((value, span)) = self.take(key) else { return Ok(None) };
        let place = self.source.place(&span, self.key(key));
        match status(&value) {
            Some(value) => Ok(Some(At { value, place })),
            None => Err(place.error("this has to be an HTTP status code, as in 404")),
        }
    }

    /// A text, number or truth value, as JSON.
    pub(crate) fn scalar(&mut self, key: &str) -> Result<Option<At<Value>>, PresetError> {
        let Some((value, span)) = self.take(key) else { return Ok(None) };
        let place = self.source.place(&span, self.key(key));
        let value = match value {
            DeValue::String(text) => Some(Value::from(text.into_owned())),
            DeValue::Boolean(truth) => Some(Value::from(truth)),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse::<i64>().ok().map(Value::from),
            _ => None,
        };
        value.map_or_else(
            || Err(place.error("this has to be a text, a whole number, true or false")),
            |value| Ok(Some(At { value, place: place.clone() })),
        )
    }

    fn list<T>(
        &mut self,
        key: &str,
        wanted: &str,
        item: impl Fn(DeValue<'t>) -> Option<T>,
    ) -> Result<Option<At<Vec<T>>>, PresetError> {
        let Some((value, span)) = self.take(key) else { return Ok(None) };
        let place = self.source.place(&span, self.key(key));
        let DeValue::Array(items) = value else { return Err(place.error(wanted)) };
        let value: Option<Vec<T>> = items.into_iter().map(|found| item(found.into_inner())).collect();
        value.map_or_else(|| Err(place.error(wanted)), |value| Ok(Some(At { value, place: place.clone() })))
    }

    fn take(&mut self, key: &str) -> Option<(DeValue<'t>, Range<usize>)> {
        let value = self.values.remove(key)?;
        let span = value.span();
        Some((value.into_inner(), span))
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn status(value: &DeValue<'_>) -> Option<u16> {
    let DeValue::Integer(number) = value else { return None };
    if number.radix() != 10 {
        return None;
    }
    number.as_str().parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "rate = \"1/s\"\n\n[get]\npath = \"/a\"\nstatus = 404\naccept = [200, 201]\n\n[[steps]]\nmethod = 7\n";

    #[test]
    fn values_come_with_their_places() {
        let mut root = parse("preset mine.toml", TEXT).unwrap();
        assert_eq!(root.text("rate").unwrap().unwrap().value, "1/s");
        let mut get = root.table("get").unwrap().unwrap();
        let path = get.needed_text("path").unwrap();
        assert_eq!(path.place.error("odd").to_string(), "preset mine.toml, line 4, `get.path`: odd");
        assert_eq!(get.status("status").unwrap().unwrap().value, 404);
        assert_eq!(get.statuses("accept").unwrap().unwrap().value, [200, 201]);
        assert!(get.text("body").unwrap().is_none());
        get.finish(&["path"]).unwrap();
        assert!(root.table("list").unwrap().is_none());
        let mut steps = root.tables("steps").unwrap().unwrap();
        let error = steps.value[0].needed_text("method").unwrap_err().to_string();
        assert_eq!(error, "preset mine.toml, line 9, `steps[0].method`: this has to be a text in quotes");
        root.finish(&[]).unwrap();
    }

    #[test]
    fn every_complaint_names_line_and_key_and_repeats_no_value() {
        type Reading = fn(&mut Table<'_>) -> Result<(), PresetError>;
        let cases: [(&str, Reading, &str); 8] = [
            ("a = [1", |_| Ok(()), "preset p, line 1: this is not TOML: "),
            ("\na = 's3cret'", |t| t.table("a").map(drop), "line 2, `a`: this has to be a table"),
            ("a = 's3cret'", |t| t.tables("a").map(drop), "`a`: this has to be a list of tables"),
            ("a = ['s3cret']", |t| t.tables("a").map(drop), "`a[0]`: this has to be a table"),
            ("a = ['s3cret', 1]", |t| t.texts("a").map(drop), "`a`: this has to be a list of texts"),
            ("a = [200, 's3cret']", |t| t.statuses("a").map(drop), "`a`: this has to be a list of HTTP status codes"),
            ("a = 600", |t| t.status("a").map(drop), "`a`: this has to be an HTTP status code"),
            ("a = 1.5", |t| t.scalar("a").map(drop), "`a`: this has to be a text, a whole number"),
        ];
        for (text, read, expected) in cases {
            let error = parse("preset p", text).and_then(|mut table| read(&mut table)).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?} gave {error:?}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let rest = parse("preset p", "[get]\nstat = 's3cret'").unwrap().table("get").unwrap().unwrap();
        let error = rest.finish(&["state", "path"]).unwrap_err().to_string();
        assert_eq!(error, "preset p, line 2, `get.stat`: there is no such key; known here are state, path");
        let headers = parse("preset p", "[headers]\na = 1").unwrap().table("headers").unwrap().unwrap();
        assert!(headers.all_texts().unwrap_err().to_string().contains("line 2, `headers.a`"));
    }
}
