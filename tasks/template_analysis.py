"""Whether a chat template only prints what messages say, told from its source: then what stands around it is found out once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import nodes

_PLAIN_KEYS = ("role", "tool_calls")  # of a message; others may be anything, such as the method `items`
_PLACES = ("first", "last", "index", "index0", "revindex", "revindex0", "length")  # of a loop; its `previtem` is a message


def prints_verbatim(template: str) -> bool:
    """Whether the text of messages without calls of tools, none of them empty, is their contents and what their roles decide.

    True only where every use of a message is seen to be its role, whether it has calls, whether it has a content, or its content
    where that is printed, alone or joined to other text. A content that is trimmed, compared, counted, kept in a variable or
    printed within a macro or block makes it False, as does whatever is not known here.
    """
    from jinja2 import Environment, TemplateSyntaxError, nodes

    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError:  # such as the tag `generation` of templates for training
        return False
    targets = [loop.target for loop in tree.find_all(nodes.For) if _is_name(loop.iter, {"messages"})]
    return _harmless(tree, {target.name for target in targets if isinstance(target, nodes.Name)})


def _harmless(node: "nodes.Node", single: set[str], shown: bool = False) -> bool:
    """Whether nothing at or below `node` can tell one content from another.

    Args:
        node: Of the syntax tree.
        single: The variables that hold one message.
        shown: Whether `node` may be a content: it is printed, or only asked for being there.
    """
    from jinja2 import nodes

    match node:
        case nodes.Getattr() | nodes.Getitem() if _is_message(node.node, single):
            return _key(node) in _PLAIN_KEYS or (shown and _key(node) == "content")
        case nodes.Getattr(node=nodes.Name(name="loop")):
            return node.attr in _PLACES
        case nodes.Filter(name="length" | "count", node=nodes.Name(name="messages")):
            return True
        case nodes.Name():
            return node.name not in ("messages", "loop", *single)
        case nodes.For():
            over_messages = _is_name(node.iter, {"messages"}) and isinstance(node.target, nodes.Name)
            read = [*([] if over_messages else [node.target, node.iter]), *([node.test] if node.test else [])]
            return not node.recursive and all(_harmless(part, single) for part in (*read, *node.body, *node.else_))
        case nodes.If():
            return _harmless(node.test, single, True) and all(
                _harmless(part, single) for part in (*node.body, *node.elif_, *node.else_)
            )
        case nodes.Output() | nodes.Add() | nodes.Concat() | nodes.Not() | nodes.And() | nodes.Or() | nodes.CondExpr():
            shown = shown or isinstance(node, nodes.Output)
            return all(_harmless(part, single, shown) for part in node.iter_child_nodes())
        case nodes.Template() | nodes.Assign() | nodes.Break() | nodes.Continue() | nodes.Expr() | nodes.Helper():
            return all(_harmless(part, single) for part in node.iter_child_nodes())
    return False


def _is_message(node: "nodes.Node", single: set[str]) -> bool:
    """A variable that holds a message, or one of `messages` by its place."""
    from jinja2 import nodes

    if isinstance(node, nodes.Getitem) and _is_name(node.node, {"messages"}):
        return not isinstance(node.arg, nodes.Slice) and _harmless(node.arg, single)
    return _is_name(node, single)


def _is_name(node: "nodes.Node", names: set[str]) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name in names


def _key(node: "nodes.Getattr | nodes.Getitem") -> object:
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) else None
