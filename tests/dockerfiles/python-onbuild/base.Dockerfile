FROM python:3.11-slim-bookworm
WORKDIR /app
ONBUILD COPY requirements.txt ./
ONBUILD RUN python3 -m venv /venv && /venv/bin/pip install --quiet -r requirements.txt
ONBUILD COPY . .
ENV PATH=/venv/bin:$PATH
CMD ["python3", "-m", "main"]
