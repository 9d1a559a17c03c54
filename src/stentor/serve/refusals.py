"""Errors in OpenAI's shape, each with its status, whoever finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stentor.serve.openai import ErrorAnswer

INVALID = "invalid_request_error"


class Refused(Exception):
    """A request that is not served: status, text, and what of it is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = error(status, message, param, code)


def error(status: int, message: str, param: str | None = None, code: str | None = None) -> Any:
    """OpenAI's error object."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, INVALID if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer(refused: Refused) -> JSONResponse:
    return JSONResponse(refused.body, refused.status, refused.headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its OpenAPI description."""
    return {status: {"model": ErrorAnswer} for status in statuses}


def install(app: FastAPI) -> None:
    """Give every error of the application this shape."""

    @app.exception_handler(Refused)
    async def refused(_: Request, found: Refused) -> JSONResponse:
        return answer(found)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, found: RequestValidationError) -> JSONResponse:
        param, message = described(found.errors())
        return answer(Refused(400, message, param=param))

    @app.exception_handler(HTTPException)
    async def http(request: Request, found: HTTPException) -> JSONResponse:
        path, headers = request.url.path, dict(found.headers or {})
        texts = {
            404: f"there is nothing at {path}; /openapi.json says what there is",
            405: f"{path} takes no {request.method}; it takes {headers.get('allow', 'another')}",
            400: "the body can't be read: it is no JSON that we know",
        }
        text = texts.get(found.status_code, str(found.detail))
        return answer(Refused(found.status_code, text, headers=headers))

    @app.exception_handler(Exception)
    async def failed(_: Request, found: Exception) -> JSONResponse:
        return answer(Refused(500, "the server failed at this request; its log says why"))


def described(problems: Sequence[Any]) -> tuple[str | None, str]:
    """The field to blame and the text, for what pydantic found."""
    texts: list[str] = []
    param = None
    for problem in problems:
        if problem["type"] == "json_invalid":
            why, place = problem.get("ctx", {}).get("error", "wrong"), problem["loc"][-1]
            return None, f"the body is not JSON: {why}, at character {place}"
        names = [str(part) for part in problem["loc"] if part != "body"]
        # a union names the branch that it tried, which says nothing to the sender
        names = [name for name in names if name.isidentifier() or name.isdecimal()]
        where = ".".join(name for name in names if name not in ("str", "int", "float", "list"))
        param = param or where or None
        text = f"{where}: {problem['msg']}" if where else str(problem["msg"])
        if problem["type"] == "extra_forbidden":
            text = f"{where}: there is no such field"
        if problem["type"] == "too_long" and not problem["ctx"]["max_length"]:
            text = f"{where}: not supported here; leave it out"
        if text not in texts:
            texts.append(text)
    shown = "; ".join(texts[:5])
    return param, shown.encode("utf-8", "replace").decode()
