//! Expectations of an answer, and the names that earlier answers have bound.

use std::collections::HashMap;

use harness::Answer;
use serde_json::Value;

/// Texts by name.
pub(crate) type Bindings = HashMap<String, String>;

/// The expectation of a table.
pub(crate) struct Expected {
    status: u16,
    body: Body,
}

enum Body {
    Empty,
    Any,
    Code(String),
    Text(String),
    Exactly(Value),
    AtLeast(Value),
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

impl Expected {
    pub(crate) fn parse(content: &str) -> Result<Self, String> {
        let (status, rest) = content.split_once(' ').unwrap_or((content, ""));
        let body = match rest.trim() {
            "" => Body::Empty,
            "*" => Body::Any,
            code if code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()) => {
                Body::Code(code.to_owned())
            }
            rest => match (rest.strip_prefix("has "), rest.strip_prefix("text ")) {
                (Some(least), _) => Body::AtLeast(json(least)?),
                (None, Some(text)) => Body::Text(text.to_owned()),
                (None, None) => Body::Exactly(json(rest)?),
            },
        };
        Ok(Self { status: status.parse().map_err(|_| "expected a status")?, body })
    }

    pub(crate) fn compare(&self, answer: &Answer, bound: &mut Bindings) -> Result<(), String> {
        if answer.status != self.status {
            return Err(format!("expected {}", self.status));
        }
        match &self.body {
            Body::Any => Ok(()),
            Body::Empty if answer.body.is_empty() => Ok(()),
            Body::Empty => Err("expected no body".into()),
            Body::Text(expected) => text(expected, answer.text().trim_end(), bound),
            Body::Code(code) => {
                let found = json_of(answer)?;
                let same = found["errorCode"] == code.as_str() && found["errorMessage"].is_string();
                if same { Ok(()) } else { Err(format!("expected code {code}")) }
            }
            Body::Exactly(expected) => compare(expected, &json_of(answer)?, true, "the answer", bound),
            Body::AtLeast(expected) => compare(expected, &json_of(answer)?, false, "the answer", bound),
        }
    }
}

/// JSON as the contract wants it: its type, compact, no newline.
fn json_of(answer: &Answer) -> Result<Value, String> {
    let content_type = answer.headers.get("content-type").map(|value| value.as_bytes());
    if content_type != Some(b"application/json; charset=UTF-8") {
        return Err(format!("content type {content_type:?}"));
    }
    let value: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    // Lengths and not texts, because the order of members is not part of the contract.
    if value.to_string().len() != answer.body.len() {
        return Err("the JSON is not compact".into());
    }
    Ok(value)
}

fn compare(
    expected: &Value,
    found: &Value,
    exactly: bool,
    place: &str,
    bound: &mut Bindings,
) -> Result<(), String> {
    match (expected, found) {
        (Value::String(any), _) if any == "<_>" => Ok(()),
        (Value::String(expected), Value::String(found)) => {
            text(expected, found, bound).map_err(|e| format!("{place}: {e}"))
        }
        (Value::Array(expected), Value::Array(found)) => {
            if expected.len() != found.len() {
                return Err(format!("{place} has {} items, not {}", found.len(), expected.len()));
            }
            let mut pairs = expected.iter().zip(found).enumerate();
            pairs.try_for_each(|(i, (e, f))| compare(e, f, exactly, &format!("{place}[{i}]"), bound))
        }
        (Value::Object(expected), Value::Object(found)) => {
            for (name, expected) in expected {
                let place = format!("{place}.{name}");
                let found = found.get(name).ok_or_else(|| format!("{place} is absent"))?;
                compare(expected, found, exactly, &place, bound)?;
            }
            match found.keys().find(|name| exactly && !expected.contains_key(*name)) {
                Some(name) => Err(format!("{place}.{name} is there")),
                None => Ok(()),
            }
        }
        _ if expected == found => Ok(()),
        _ => Err(format!("{place} is {found}, not {expected}")),
    }
}

/// Compares a text; a name that nothing is bound to yet is bound.
pub(crate) fn text(expected: &str, found: &str, bound: &mut Bindings) -> Result<(), String> {
    let name = expected.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let Some(name) = name.filter(|name| !name.contains(['<', '*'])) else {
        let expected = fill(expected, bound)?;
        return if expected == found { Ok(()) } else { Err(format!("'{found}', not '{expected}'")) };
    };
    let (name, length) =
        name.split_once(':').map_or((name, None), |(name, length)| (name, length.parse().ok()));
    if length.is_some_and(|length: usize| length != found.len()) {
        return Err(format!("'{found}' has not {length:?} characters"));
    }
    if found.is_empty() {
        return Err("it is empty".into());
    }
    match bound.get(name) {
        _ if name == "_" => Ok(()),
        Some(known) if known != found => Err(format!("'{found}', not '{known}'")),
        Some(_) => Ok(()),
        None => {
            bound.insert(name.to_owned(), found.to_owned());
            Ok(())
        }
    }
}

/// Replaces names by what they are bound to, and repeats what is to be repeated.
pub(crate) fn fill(text: &str, bound: &Bindings) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        let (name, after) = after.split_once('>').ok_or("'<' without '>'")?;
        filled.push_str(before);
        match (bound.get(name), name.split_once('*')) {
            (Some(value), _) => filled.push_str(value),
            (None, Some((unit, times))) => {
                let times = times.parse().map_err(|_| format!("<{name}> is not a repetition"))?;
                filled.push_str(&unit.repeat(times));
            }
            (None, None) => return Err(format!("nothing is bound to <{name}>")),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
