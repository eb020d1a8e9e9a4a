//! RUN, CMD, ENTRYPOINT, SHELL and HEALTHCHECK.

use super::Reading;
use crate::ast::{CommandLine, Healthcheck, Kind, Run, Span, Spanned};
use crate::flag::{FlagSpec, Flags};
use crate::quote::quote;
use crate::{device, mount, suggest, value};

/// Durations below this are refused (0 means "inherit").
const MIN_INTERVAL: i64 = 1_000_000;

const NETWORKS: [&str; 3] = ["default", "none", "host"];
const SECURITY: [&str; 2] = ["sandbox", "insecure"];

impl Reading<'_> {
    pub(super) fn command_line(&mut self) -> Option<CommandLine> {
        self.flags(&[])?;
        Some(self.command_from(0))
    }

    /// The arguments from `first` on, as a command.
    fn command_from(&self, first: usize) -> CommandLine {
        let args = self
            .node
            .args
            .iter()
            .skip(first)
            .map(|arg| arg.value.clone())
            .collect();
        CommandLine {
            args,
            shell: !self.node.json,
        }
    }

    pub(super) fn shell(&mut self) -> Option<Kind> {
        self.flags(&[])?;
        let command = self.command_from(0);
        if command.args.is_empty() {
            return self.needs_one("SHELL");
        }
        if command.shell {
            let help = Some("write SHELL [\"/bin/sh\", \"-c\"]".to_owned());
            let span = self
                .node
                .args
                .first()
                .map_or(self.node.keyword_span, |arg| arg.span);
            return self.fail_with_help(
                "SHELL requires the arguments to be in JSON form",
                span,
                help,
            );
        }
        Some(Kind::Shell(command.args))
    }

    pub(super) fn run(&mut self) -> Option<Kind> {
        let flags = self.flags(&[
            FlagSpec::list("mount"),
            FlagSpec::text("network"),
            FlagSpec::text("security"),
            FlagSpec::list("device"),
        ])?;
        let mut valid = true;
        for value in flags.list("mount") {
            if let Err(message) = mount::check(&value.value) {
                self.fail::<()>(message, value.span);
                valid = false;
            }
        }
        for value in flags.list("device") {
            if let Err(message) = device::parse(&value.value) {
                let help = "write --device=vendor/class=name[,required], once for each device";
                self.fail_with_help::<()>(message, value.span, Some(help.to_owned()));
                valid = false;
            }
        }
        let network = flags.text("network");
        if let Some(mode) = network
            .as_ref()
            .filter(|mode| !NETWORKS.contains(&mode.value.as_str()))
        {
            self.bad_mode(
                format!("invalid network mode {}", quote(&mode.value)),
                mode,
                &NETWORKS,
            );
            valid = false;
        }
        let security = flags.text("security");
        if let Some(mode) = security
            .as_ref()
            .filter(|mode| !SECURITY.contains(&mode.value.as_str()))
        {
            self.bad_mode(
                format!("security {} is not valid", quote(&mode.value)),
                mode,
                &SECURITY,
            );
            valid = false;
        }
        valid.then(|| {
            Kind::Run(Run {
                command: self.command_from(0),
                heredocs: self.heredocs.to_vec(),
                mounts: flags.list("mount"),
                network,
                security,
                devices: flags.list("device"),
            })
        })
    }

    fn bad_mode(&mut self, message: String, mode: &Spanned<String>, known: &[&str]) {
        let help = match suggest::nearest(&mode.value, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("one of {}", known.join(", ")),
        };
        self.fail_with_help::<()>(message, mode.span, Some(help));
    }

    pub(super) fn healthcheck(&mut self) -> Option<Kind> {
        let Some(kind) = self.node.args.first() else {
            return self.needs_one("HEALTHCHECK");
        };
        let name = kind.value.to_uppercase();
        if name == "NONE" {
            if let Some(extra) = self.node.args.get(1) {
                return self.fail("HEALTHCHECK NONE takes no arguments", extra.span);
            }
            return Some(Kind::Healthcheck(Healthcheck::None));
        }
        let flags = self.flags(&[
            FlagSpec::text("interval"),
            FlagSpec::text("timeout"),
            FlagSpec::text("start-period"),
            FlagSpec::text("start-interval"),
            FlagSpec::text("retries"),
        ])?;
        if name != "CMD" {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(&name));
            return self.fail(message, kind.span);
        }
        let command = self.command_from(1);
        if command.args.is_empty() {
            return self.fail("Missing command after HEALTHCHECK CMD", kind.span);
        }
        Some(Kind::Healthcheck(Healthcheck::Cmd {
            command,
            interval: self.interval(&flags, "interval")?,
            timeout: self.interval(&flags, "timeout")?,
            start_period: self.interval(&flags, "start-period")?,
            start_interval: self.interval(&flags, "start-interval")?,
            retries: self.retries(&flags)?,
        }))
    }

    fn interval(&mut self, flags: &Flags, name: &str) -> Option<u64> {
        let Some(text) = flags.text(name).filter(|text| !text.value.is_empty()) else {
            return Some(0);
        };
        match value::duration(&text.value) {
            Ok(0) => Some(0),
            Ok(nanos) if nanos < MIN_INTERVAL => self.fail(
                format!("Interval {} cannot be less than 1ms", quote(name)),
                text.span,
            ),
            Ok(nanos) => Some(nanos.unsigned_abs()),
            Err(message) => self.bad_value(
                message,
                text.span,
                "a number with a unit, such as 30s or 1m30s",
            ),
        }
    }

    fn retries(&mut self, flags: &Flags) -> Option<u32> {
        let Some(text) = flags.text("retries").filter(|text| !text.value.is_empty()) else {
            return Some(0);
        };
        match value::int32(&text.value) {
            Ok(count) => match u32::try_from(count) {
                Ok(count) => Some(count),
                Err(_) => self.fail(format!("--retries cannot be negative ({count})"), text.span),
            },
            Err(message) => self.bad_value(message, text.span, "a whole number"),
        }
    }

    fn bad_value<T>(&mut self, message: String, span: Span, form: &str) -> Option<T> {
        self.fail_with_help(message, span, Some(format!("the value is {form}")))
    }
}
