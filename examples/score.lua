-- Adds points up: jetmill submit --lua examples/score.lua --input '{"name": "a", "points": [1, 2]}' --wait
function main(input)
  print("scoring", input.name)
  local sum = 0
  for _, n in input.points do
    sum += n
  end
  return { name = input.name, score = sum }
end
