//! Reads the modules of a crate and the paths that each of them names.
//!
//! In: the root file of a crate. Out: one [`Import`] for every path, in a `use` or in the middle of the code,
//! that leads from one file of the crate to another. The reader works on tokens and not on a syntax tree,
//! because much of the code is arguments of macros (`select!`, `info!`), which a syntax tree keeps as tokens
//! anyway. Macros are not expanded. Items under `#[cfg(test)]` are skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The segments that lead from the crate's root to a module; empty for the root.
pub(super) type ModulePath = Vec<String>;

/// One mention of another module.
#[derive(Clone, Debug)]
pub(super) struct Import {
    /// The module whose file names the path; inline modules belong to the module of their file.
    pub(super) from: ModulePath,
    /// The deepest module with a file of its own that the path leads to.
    pub(super) to: ModulePath,
    pub(super) file: PathBuf,
    pub(super) line: usize,
    /// The path as it is written, with the branches of a `use` tree spelled out.
    pub(super) path: String,
}

/// Reads the crate whose root is this file.
///
/// # Errors
/// When a file cannot be read, or is not made of Rust tokens.
pub(super) fn read(crate_root: &Path) -> Result<Vec<Import>> {
    let mut reader = Reader::default();
    let folder = crate_root.parent().context("a source file is in no folder")?;
    reader.read_file(crate_root, folder, &Vec::new())?;
    Ok(reader.resolve())
}

#[derive(Default)]
struct Reader {
    /// Every module, inline ones included, with the module of the file that it is written in.
    modules: BTreeMap<ModulePath, ModulePath>,
    /// The names that `use` brings into a module, with the path that each stands for.
    names: BTreeMap<(ModulePath, String), Vec<String>>,
    mentions: Vec<Mention>,
}

/// A path as it is written, before its first segment is looked up.
struct Mention {
    module: ModulePath,
    file: PathBuf,
    line: usize,
    segments: Vec<String>,
}

/// The position of the reader in the crate.
struct Cursor<'a> {
    module: &'a ModulePath,
    /// The module that owns the file.
    owner: &'a ModulePath,
    file: &'a Path,
    /// The folder in which files of child modules are looked for.
    folder: &'a Path,
}

type Tokens = std::iter::Peekable<proc_macro2::token_stream::IntoIter>;

impl Reader {
    fn read_file(&mut self, file: &Path, folder: &Path, module: &ModulePath) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let tokens: TokenStream = text.parse().map_err(|e| anyhow!("{}: {e}", file.display()))?;
        self.modules.insert(module.clone(), module.clone());
        self.walk(tokens, &Cursor { module, owner: module, file, folder })
    }

    fn walk(&mut self, tokens: TokenStream, cursor: &Cursor<'_>) -> Result<()> {
        let mut tokens = tokens.into_iter().peekable();
        let mut written_path = None;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let Some(attribute) = attribute(&mut tokens) else { continue };
                    if is_for_tests(&attribute) {
                        skip_item(&mut tokens);
                    }
                    written_path = path_attribute(&attribute).or(written_path);
                }
                TokenTree::Group(group) => self.walk(group.stream(), cursor)?,
                TokenTree::Ident(word) if word == "mod" => {
                    self.read_module(&mut tokens, cursor, written_path.take())?;
                }
                TokenTree::Ident(word) if word == "use" => {
                    let line = word.span().start().line;
                    let tree: TokenStream = tokens.by_ref().take_while(|next| !is_punct(next, ';')).collect();
                    self.read_use(tree, &[], line, cursor);
                }
                // `pub(in crate::room)` grants; it does not import.
                TokenTree::Ident(word) if word == "pub" => _ = tokens.next_if(is_parenthesis),
                TokenTree::Ident(word) => {
                    let line = word.span().start().line;
                    let segments = rest_of_path(word.to_string(), &mut tokens);
                    if segments.len() > 1 {
                        self.mention(segments, line, cursor);
                    }
                }
                // The path that follows a bare `::` begins with a crate's name or ends a qualified type.
                TokenTree::Punct(punct) if punct.as_char() == ':' => skip_global_path(&mut tokens),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        Ok(())
    }

    /// Reads what follows the word `mod`.
    fn read_module(&mut self, tokens: &mut Tokens, cursor: &Cursor<'_>, path: Option<String>) -> Result<()> {
        let Some(TokenTree::Ident(name)) = tokens.next() else { return Ok(()) };
        let name = name.to_string();
        let mut module = cursor.module.clone();
        module.push(name.clone());
        match tokens.next() {
            Some(TokenTree::Group(body)) => {
                self.modules.insert(module.clone(), cursor.owner.clone());
                let folder = cursor.folder.join(&name);
                let inside =
                    Cursor { module: &module, owner: cursor.owner, file: cursor.file, folder: &folder };
                self.walk(body.stream(), &inside)
            }
            _ => {
                let beside = cursor.file.parent().unwrap_or(cursor.folder);
                let file = match path {
                    Some(path) => beside.join(path),
                    None => Some(cursor.folder.join(&name).with_extension("rs"))
                        .filter(|file| file.is_file())
                        .unwrap_or_else(|| cursor.folder.join(&name).join("mod.rs")),
                };
                self.read_file(&file, &cursor.folder.join(&name), &module)
            }
        }
    }

    /// Reads a `use` tree whose branches all begin with `prefix`.
    fn read_use(&mut self, tree: TokenStream, prefix: &[String], line: usize, cursor: &Cursor<'_>) {
        let tokens: Vec<TokenTree> = tree.into_iter().collect();
        for branch in tokens.split(|token| is_punct(token, ',')).filter(|branch| !branch.is_empty()) {
            let mut segments = prefix.to_vec();
            let mut alias = None;
            let mut is_tree = false;
            for token in branch {
                match token {
                    TokenTree::Ident(word) if word == "as" => alias = branch.last().map(ToString::to_string),
                    // A `self` inside of braces stands for the prefix.
                    TokenTree::Ident(word) if word == "self" && !prefix.is_empty() => {}
                    TokenTree::Ident(word) if alias.is_none() => segments.push(word.to_string()),
                    TokenTree::Group(branches) => {
                        is_tree = true;
                        self.read_use(branches.stream(), &segments, line, cursor);
                    }
                    _ => {}
                }
            }
            if !is_tree {
                self.finish_use(segments, alias, line, cursor);
            }
        }
    }

    fn finish_use(&mut self, segments: Vec<String>, alias: Option<String>, line: usize, cursor: &Cursor<'_>) {
        if let Some(name) = alias.or_else(|| segments.last().cloned()) {
            self.names.insert((cursor.module.clone(), name), segments.clone());
        }
        self.mention(segments, line, cursor);
    }

    fn mention(&mut self, segments: Vec<String>, line: usize, cursor: &Cursor<'_>) {
        let file = cursor.file.to_owned();
        self.mentions.push(Mention { module: cursor.module.clone(), file, line, segments });
    }

    /// Looks every path up, now that all modules and names are known.
    fn resolve(self) -> Vec<Import> {
        let mut imports = Vec::new();
        for mention in &self.mentions {
            let Some(target) = self.target(&mention.module, &mention.segments, MAX_ALIASES) else { continue };
            let (Some(from), Some(to)) = (self.modules.get(&mention.module), self.modules.get(&target))
            else {
                continue;
            };
            if from != to {
                imports.push(Import {
                    from: from.clone(),
                    to: to.clone(),
                    file: mention.file.clone(),
                    line: mention.line,
                    path: mention.segments.join("::"),
                });
            }
        }
        imports
    }

    /// The deepest module that a path leads to; `None` when it leads out of the crate or to something local.
    fn target(&self, module: &ModulePath, segments: &[String], aliases_left: usize) -> Option<ModulePath> {
        let (first, mut rest) = segments.split_first()?;
        let mut target = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => parent(module)?,
            name => {
                let child = child(module, name);
                if self.modules.contains_key(&child) {
                    child
                } else {
                    return self.through_alias(module, name, rest, aliases_left);
                }
            }
        };
        while let Some((next, after)) = rest.split_first() {
            let deeper = if next == "super" { parent(&target)? } else { child(&target, next) };
            if !self.modules.contains_key(&deeper) {
                // The root is not a room: what it exports counts as an import of the room that declares it.
                let exported =
                    target.is_empty().then(|| self.through_alias(&target, next, after, aliases_left));
                return Some(exported.flatten().unwrap_or(target));
            }
            target = deeper;
            rest = after;
        }
        Some(target)
    }

    /// Follows a name that a `use` brought into the module.
    fn through_alias(
        &self,
        module: &ModulePath,
        name: &str,
        rest: &[String],
        aliases_left: usize,
    ) -> Option<ModulePath> {
        let stands_for = self.names.get(&(module.clone(), name.to_owned()))?;
        // `use anyhow;` stands for itself.
        if stands_for.len() == 1 && stands_for[0] == name {
            return None;
        }
        let whole = [stands_for.as_slice(), rest].concat();
        self.target(module, &whole, aliases_left.checked_sub(1)?)
    }
}

/// The longest chain of names that stand for other names. Sources that compile have no endless one, but the
/// reader also sees sources that do not.
const MAX_ALIASES: usize = 8;

fn parent(module: &ModulePath) -> Option<ModulePath> {
    module.split_last().map(|(_, parent)| parent.to_vec())
}

fn child(module: &ModulePath, name: &str) -> ModulePath {
    let mut child = module.clone();
    child.push(name.to_owned());
    child
}

/// Takes the brackets of an attribute whose `#` was taken; `None` when it is none.
fn attribute(tokens: &mut Tokens) -> Option<Group> {
    tokens.next_if(|next| is_punct(next, '!'));
    match tokens.next_if(|next| is_group(next, Delimiter::Bracket)) {
        Some(TokenTree::Group(group)) => Some(group),
        _ => None,
    }
}

/// True for `cfg(test)` and for `cfg(any(test, …))` and `cfg(all(test, …))`.
fn is_for_tests(attribute: &Group) -> bool {
    let mut words = Vec::new();
    collect_words(attribute.stream(), &mut words);
    words.first().is_some_and(|word| word == "cfg")
        && words.iter().any(|word| word == "test")
        && !words.iter().any(|word| word == "not")
}

fn collect_words(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(word) => words.push(word.to_string()),
            TokenTree::Group(group) => collect_words(group.stream(), words),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Group) -> Option<String> {
    let mut tokens = attribute.stream().into_iter();
    let is_path = matches!(tokens.next(), Some(TokenTree::Ident(word)) if word == "path");
    match tokens.nth(1) {
        Some(TokenTree::Literal(file)) if is_path => Some(file.to_string().trim_matches('"').to_owned()),
        _ => None,
    }
}

/// Skips the item, field or statement behind an attribute, with its further attributes.
fn skip_item(tokens: &mut Tokens) {
    let mut is_item_with_body = false;
    let mut is_list_entry = true;
    for token in tokens.by_ref() {
        match &token {
            TokenTree::Ident(word) => match word.to_string().as_str() {
                "fn" | "mod" | "impl" | "trait" | "struct" | "enum" | "union" => {
                    is_item_with_body = true;
                    is_list_entry = false;
                }
                // Their braces belong to a tree or to a value, and a semicolon follows.
                "use" | "const" | "static" | "type" | "let" => is_list_entry = false,
                _ => {}
            },
            TokenTree::Group(_) if is_item_with_body && is_group(&token, Delimiter::Brace) => return,
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            TokenTree::Punct(punct) if punct.as_char() == ',' && is_list_entry => return,
            _ => {}
        }
    }
}

/// Takes the segments that follow the first one.
fn rest_of_path(first: String, tokens: &mut Tokens) -> Vec<String> {
    let mut segments = Vec::from([first]);
    while skip_two_colons(tokens) {
        match tokens.next_if(|next| matches!(next, TokenTree::Ident(_))) {
            Some(segment) => segments.push(segment.to_string()),
            None => break,
        }
    }
    segments
}

/// Skips the path behind the first colon of a bare `::`; leaves what follows the single colon of a type or a
/// field.
fn skip_global_path(tokens: &mut Tokens) {
    if tokens.next_if(|next| is_punct(next, ':')).is_some()
        && let Some(first) = tokens.next_if(|next| matches!(next, TokenTree::Ident(_)))
    {
        rest_of_path(first.to_string(), tokens);
    }
}

fn skip_two_colons(tokens: &mut Tokens) -> bool {
    // Only `::` is a joint colon; the one of `name: Type` stands alone.
    tokens.next_if(is_joint_colon).is_some() && tokens.next_if(|next| is_punct(next, ':')).is_some()
}

fn is_joint_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct)
        if punct.as_char() == ':' && punct.spacing() == proc_macro2::Spacing::Joint)
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn is_group(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == delimiter)
}

fn is_parenthesis(token: &TokenTree) -> bool {
    is_group(token, Delimiter::Parenthesis)
}
