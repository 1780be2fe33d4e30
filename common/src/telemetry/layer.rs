//! From `tracing` events to lines: an event's own fields first, then those of the spans around it.

use std::error::Error;
use std::fmt::Debug;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Telemetry;
use super::line::{Fields, Line};

/// Writes each event through a [`Telemetry`].
pub(super) struct LineLayer {
    telemetry: Telemetry,
}

impl LineLayer {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut Collect(&mut fields));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(&mut Collect(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut Collect(&mut fields));
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(more) = span.extensions().get::<Fields>() {
                fields.add_missing(more);
            }
        }
        let message = match fields.take("message") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let metadata = event.metadata();
        let mut line = Line::now(*metadata.level(), metadata.target(), message, fields);
        self.telemetry.write(&mut line);
    }
}

/// Takes fields down as JSON values.
struct Collect<'a>(&'a mut Fields);

impl Visit for Collect<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no form for what is not finite, and just that must not be lost.
        let value = serde_json::Number::from_f64(value)
            .map_or_else(|| Value::String(value.to_string()), Value::Number);
        self.0.set(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.set(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.set(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        self.0.set(field.name(), text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.set(field.name(), format!("{value:?}").into());
    }
}
