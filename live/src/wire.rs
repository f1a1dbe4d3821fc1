//! Reads request bodies and responses in place. Read `json` (the parser), [`request_fields`] and [`prompt_blocks`]
//! (prompts), [`other_fields`] (any other request), then `content_type`, `sse_frames` and [`answer_tap`] (responses).

pub(crate) mod answer_tap;
pub(crate) mod content_type;
pub(crate) mod other_fields;
pub(crate) mod prompt_blocks;
pub(crate) mod request_fields;

pub(crate) mod json;

mod sse_frames;
