//! Plugins, which there are not.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::directive::{Directive, Scope};

/// A broker that left out a plugin in silence would let in whom the plugin refuses.
const NO_PLUGINS: &str = "plugins are libraries for Mosquitto's process, and without one clients would be let in \
     that it refuses. Use password_file and acl_file, which do what Mosquitto's own plugins for them do.";

/// A directive of a plugin.
const fn of_plugin(name: &'static str, syntax: &'static str, text: &'static str) -> Directive {
    Directive::refused(name, syntax, Scope::Plugin, NO_PLUGINS).text(text)
}

pub(super) const SECTION: Section = Section {
    title: "Plugins",
    introduction: "Mosquitto's plugins cannot be loaded, and the broker does not start with a configuration \
                   that asks for one.",
    directives: &[
        of_plugin("plugin", "FILE", "Loads a plugin."),
        of_plugin("global_plugin", "FILE", "Loads a plugin for all listeners."),
        of_plugin(
            "plugin_load",
            "NAME FILE",
            "Loads a plugin and gives it a name.",
        ),
        of_plugin(
            "plugin_use",
            "NAME",
            "Uses a loaded plugin on the listener above it.",
        ),
        of_plugin("plugin_opt_*", "VALUE", "An option of the plugin above it."),
        of_plugin("auth_plugin", "FILE", "An old name of plugin."),
        of_plugin("auth_opt_*", "VALUE", "An old name of plugin_opt_*."),
        of_plugin(
            "auth_plugin_deny_special_chars",
            "true|false",
            "Whether names with + or # in them are refused before the plugin is asked.",
        ),
    ],
};
