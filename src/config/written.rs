//! What a file says of the broker, of one listener or of one bridge, as it was written: to name lines, and to know what waits for
//! the next start.

#![forbid(unsafe_code)]

use super::directive::{Directive, Reload, Repeat};
use super::problem::{Place, Remark, Severity};
use super::table;
use std::collections::{BTreeMap, BTreeSet};

/// The directives of one scope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Where each was given last.
    places: BTreeMap<&'static str, Place>,
    /// The values of those that only count at the start: of a broker that runs, as they were then. A line each for
    /// those of which each adds something.
    at_start: BTreeMap<&'static str, String>,
}

impl Written {
    /// Where the directive of this name was given last.
    pub fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }

    /// Adds a directive, and tells where it was given before.
    pub(super) fn add(
        &mut self,
        directive: &'static Directive,
        value: String,
        place: Place,
    ) -> Option<Place> {
        if directive.reload == Reload::Restart {
            let all = self.at_start.entry(directive.name).or_default();
            if directive.repeat != Repeat::Adds {
                all.clear();
            }
            if !all.is_empty() {
                all.push('\n');
            }
            all.push_str(&value);
        }
        self.places.insert(directive.name, place)
    }

    /// Takes the place of `running`, whose values stay in force, and returns a remark about each that will be another
    /// one from the next start on. `scope` is the line of the listener, if it is one's.
    pub(super) fn succeed(&mut self, running: &Self, scope: Option<&Place>) -> Vec<Remark> {
        let names = running.at_start.keys().chain(self.at_start.keys());
        let names: BTreeSet<&'static str> = names.copied().collect();
        let mut remarks = Vec::new();
        for name in names {
            let default = table::find(name).map_or("", |directive| directive.default);
            let value = |all: &Self| all.at_start.get(name).cloned();
            let (before, after) = (value(running), value(self));
            if before.as_deref().unwrap_or(default) == after.as_deref().unwrap_or(default) {
                continue;
            }
            let text = match (&after, default) {
                (Some(_), _) => format!("'{name}' has changed"),
                (None, "") => format!("'{name}' is gone"),
                (None, default) => format!("'{name}' is gone, which means {default}"),
            };
            remarks.push(Remark {
                severity: Severity::Warning,
                place: self.place(name).or(scope).cloned(),
                text: format!("{text}: that counts from the next start on"),
            });
        }
        self.at_start.clone_from(&running.at_start);
        remarks
    }
}
